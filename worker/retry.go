package worker

import (
	"math/rand/v2"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// nextAttempt decides whether another attempt follows, and when. All times are the
// ledger's, so differences between the clocks of machines do not matter.
func nextAttempt(policy *batch.Retry, begun *batch.Begun, resp *batch.Response) (time.Duration, bool) {
	if !resp.Repeat || begun.Attempt-begun.Earlier >= policy.Attempts {
		return 0, false
	}
	delay := backoff(policy, begun.Attempt-begun.Earlier)
	if asked := min(resp.After, policy.Max); asked > delay {
		// A little later than asked, so that the actions with the same answer do not all
		// come back at once.
		delay = asked + rand.N(asked/10+1) //nolint:gosec // jitter is no secret
	}
	next := begun.StartedAt.Add(resp.Result.Duration + delay)
	if next.Sub(begun.FirstAt) > policy.Budget || next.After(begun.ExpiresAt) {
		return 0, false
	}
	return delay, true
}

// backoff returns the delay after an attempt, counted from 1. The delay grows
// exponentially, and half of it is random ("equal jitter"), so it is never zero.
func backoff(policy *batch.Retry, attempt int) time.Duration {
	ceiling := policy.Max
	if shift := attempt - 1; shift < 32 && policy.Base<<shift > 0 {
		ceiling = min(policy.Base<<shift, policy.Max)
	}
	return ceiling/2 + rand.N(ceiling/2+1) //nolint:gosec // jitter is no secret
}
