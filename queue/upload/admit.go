package upload

import (
	"context"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/limits"
)

// Admit implements [batch.Upload].
func (u *upload) Admit(ctx context.Context, n int, limit batch.Limit, partial bool) (int, batch.LimitState, error) {
	if u.replay {
		return n, batch.LimitState{Limit: limit, Remaining: limit.Rate.N}, nil
	}
	if !u.marker.exists() { // while the marker exists, the limit keeps the grant
		if err := u.marker.renew(ctx); err != nil {
			return 0, batch.LimitState{}, err
		}
	}
	given, err := u.s.limits.Admit(ctx, limits.Asked{Owner: u.owner, Grant: limits.GrantName(u.id, ""), N: n, Limit: limit, Partial: partial})
	if err != nil {
		return 0, batch.LimitState{}, err
	}
	u.admitted = given.Admissions
	crash.At(crash.Admitted)
	if given.Holds < n && !partial {
		return 0, given.State, given.Refusal(n)
	}
	return given.Holds, given.State, nil
}

// refund gives the quota of an upload back that does not become a batch.
func (u *upload) refund(ctx context.Context) {
	if err := u.s.limits.Refund(ctx, u.admitted...); err != nil {
		u.s.log.WarnContext(ctx, "admission of an aborted upload not refunded", "batch", u.id, "error", err)
	}
}
