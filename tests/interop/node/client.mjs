// Publishes and receives with Google's client for Node, at PUBSUB_EMULATOR_HOST. The parameters are those of ../go/main.go; a JSON
// object a line comes out.

import {parseArgs} from 'node:util';
import pubsubLibrary from '@google-cloud/pubsub';

const {PubSub, Duration} = pubsubLibrary;

const {values: options, positionals: [command]} = parseArgs({
  allowPositionals: true,
  options: {
    project: {type: 'string'},
    topic: {type: 'string'},
    subscription: {type: 'string'},
    count: {type: 'string'},
    size: {type: 'string', default: '10'},
    keys: {type: 'string', default: '0'},
    'ack-in': {type: 'string', default: '1'},
    'nack-first': {type: 'boolean', default: false},
    hold: {type: 'boolean', default: false},
  },
});
const count = Number(options.count);
const pubsub = new PubSub({projectId: options.project});

function print(object) {
  process.stdout.write(`${JSON.stringify(object)}\n`);
}

async function publish() {
  const keys = Number(options.keys);
  const topic = pubsub.topic(options.topic, {messageOrdering: keys > 0});
  const publishing = [];
  for (let number = 0; number < count; number++) {
    publishing.push(
      topic.publishMessage({
        data: Buffer.from(String(number).padEnd(Number(options.size), '.')),
        attributes: {number: String(number), note: 'Ünïcödé ✓'},
        orderingKey: keys > 0 ? `key-${number % keys}` : undefined,
      }),
    );
  }
  const ids = await Promise.all(publishing);
  print({published: ids.length});
}

async function receive() {
  const lease = Duration.from({seconds: 10});
  const subscription = pubsub.subscription(options.subscription, {
    streamingOptions: {maxStreams: 1},
    minAckDeadline: lease,
    maxAckDeadline: lease,
  });
  const seen = new Set();
  const acked = new Set();
  const unanswered = [];
  const began = performance.now();

  function answer(message) {
    const number = message.attributes.number;
    const isFirst = !seen.has(number);
    seen.add(number);
    if (options.hold) {
      return 'none';
    }
    if (options['nack-first'] && isFirst) {
      message.nack();
      return 'nack';
    }
    acked.add(number);
    unanswered.push(message);
    if (unanswered.length >= Number(options['ack-in']) || acked.size >= count) {
      unanswered.splice(0).forEach((one) => one.ack());
    }
    return 'ack';
  }

  await new Promise((resolve, reject) => {
    subscription.on('error', reject);
    subscription.on('message', (message) => {
      print({
        number: Number(message.attributes.number),
        key: message.orderingKey ?? '',
        data: message.data.toString(),
        attributes: message.attributes,
        answer: answer(message),
        seconds: (performance.now() - began) / 1000,
      });
      if (acked.size >= count) {
        resolve();
      }
    });
  });
  await subscription.close();
}

await (command === 'publish' ? publish() : receive());
await pubsub.close();
