// Publishes and receives with Google's client for Go, at PUBSUB_EMULATOR_HOST. A JSON object a line comes out.
//
//	client publish --project P --topic T --count N [--size BYTES] [--keys K]
//	client receive --project P --subscription S --count N [--ack-in N] [--nack-first] [--hold]
//
// receive ends when it has acknowledged N different messages: each at once, or --ack-in of them together. With --nack-first it
// refuses the first delivery of each message, with --hold it answers none.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2"
)

const lease = 10 * time.Second

type options struct {
	project, topic, subscription string
	count, size, keys, ackIn     int
	nackFirst, hold              bool
}

type delivery struct {
	Number     int               `json:"number"`
	Key        string            `json:"key"`
	Data       string            `json:"data"`
	Attributes map[string]string `json:"attributes"`
	Answer     string            `json:"answer"`
	Seconds    float64           `json:"seconds"`
}

func main() {
	command, given := parse()
	ctx := context.Background()
	client, err := pubsub.NewClient(ctx, given.project)
	if err == nil && command == "publish" {
		err = publish(ctx, client, given)
	} else if err == nil {
		err = receive(ctx, client, given)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func parse() (string, options) {
	var given options
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&given.project, "project", "", "")
	flags.StringVar(&given.topic, "topic", "", "")
	flags.StringVar(&given.subscription, "subscription", "", "")
	flags.IntVar(&given.count, "count", 0, "")
	flags.IntVar(&given.size, "size", 10, "")
	flags.IntVar(&given.keys, "keys", 0, "")
	flags.IntVar(&given.ackIn, "ack-in", 1, "")
	flags.BoolVar(&given.nackFirst, "nack-first", false, "")
	flags.BoolVar(&given.hold, "hold", false, "")
	flags.Parse(os.Args[2:])
	return os.Args[1], given
}

func publish(ctx context.Context, client *pubsub.Client, given options) error {
	publisher := client.Publisher(given.topic)
	publisher.EnableMessageOrdering = given.keys > 0
	results := make([]*pubsub.PublishResult, given.count)
	for number := range given.count {
		text := strconv.Itoa(number)
		message := &pubsub.Message{
			Data:       []byte(text + strings.Repeat(".", max(0, given.size-len(text)))),
			Attributes: map[string]string{"number": text, "note": "Ünïcödé ✓"},
		}
		if given.keys > 0 {
			message.OrderingKey = fmt.Sprintf("key-%d", number%given.keys)
		}
		results[number] = publisher.Publish(ctx, message)
	}
	for _, result := range results {
		if _, err := result.Get(ctx); err != nil {
			return err
		}
	}
	publisher.Stop()
	return json.NewEncoder(os.Stdout).Encode(map[string]int{"published": len(results)})
}

type receiver struct {
	options
	mutex       sync.Mutex
	began       time.Time
	seen, acked map[string]bool
	unanswered  []*pubsub.Message
}

func receive(ctx context.Context, client *pubsub.Client, given options) error {
	subscriber := client.Subscriber(given.subscription)
	subscriber.ReceiveSettings.MinDurationPerAckExtension = lease
	subscriber.ReceiveSettings.MaxDurationPerAckExtension = lease
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	state := &receiver{options: given, began: time.Now(), seen: map[string]bool{}, acked: map[string]bool{}}
	return subscriber.Receive(ctx, func(_ context.Context, message *pubsub.Message) {
		if state.take(message) {
			stop()
		}
	})
}

// take answers the message as the options say, prints its delivery, and returns whether all messages are acknowledged.
func (state *receiver) take(message *pubsub.Message) bool {
	state.mutex.Lock()
	defer state.mutex.Unlock()
	number, _ := strconv.Atoi(message.Attributes["number"])
	json.NewEncoder(os.Stdout).Encode(delivery{
		Number:     number,
		Key:        message.OrderingKey,
		Data:       string(message.Data),
		Attributes: message.Attributes,
		Answer:     state.answer(message),
		Seconds:    time.Since(state.began).Seconds(),
	})
	return len(state.acked) >= state.count
}

func (state *receiver) answer(message *pubsub.Message) string {
	number := message.Attributes["number"]
	isFirst := !state.seen[number]
	state.seen[number] = true
	if state.hold {
		return "none"
	}
	if state.nackFirst && isFirst {
		message.Nack()
		return "nack"
	}
	state.acked[number] = true
	state.unanswered = append(state.unanswered, message)
	if len(state.unanswered) >= state.ackIn || len(state.acked) >= state.count {
		for _, one := range state.unanswered {
			one.Ack()
		}
		state.unanswered = nil
	}
	return "ack"
}
