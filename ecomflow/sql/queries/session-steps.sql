-- Question: Which step of the user's session was each activity?
-- Counts: Each activity once; steps count from 1 by time within a user's session, which may run past midnight.
-- Reads: fact_user_activity (partition event_date: every day; cluster user_id, session_id)
SELECT
  user_id,
  session_id,
  -- Activities in the same microsecond are ordered by event_id, so that the result is deterministic.
  ROW_NUMBER() OVER (PARTITION BY user_id, session_id ORDER BY event_timestamp, event_id) AS step,
  activity_type,
  platform,
  event_timestamp
FROM ecomflow.fact_user_activity_unique
ORDER BY user_id, session_id, step;
