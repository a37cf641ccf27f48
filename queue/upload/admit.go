package upload

import (
	"context"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/limits"
)

// Admit implements [batch.Upload].
func (u *Upload) Admit(ctx context.Context, n int, limit batch.Limit, partial bool) (int, batch.LimitState, error) {
	if u.Replay {
		return n, batch.LimitState{Limit: limit, Remaining: limit.Rate.N}, nil
	}
	if u.MarkedAt.IsZero() { // while it stands, what is admitted is kept for the upload
		if err := u.mark(ctx); err != nil {
			return 0, batch.LimitState{}, err
		}
	}
	given, err := u.s.limits.Admit(ctx, limits.Asked{Owner: u.owner, Grant: limits.GrantName(u.ID, ""), N: n, Limit: limit, Partial: partial})
	if err != nil {
		return 0, batch.LimitState{}, err
	}
	u.admitted = limits.Admission{Keys: limits.LimitKeys(u.owner, limit.Scope), Taken: given.Taken}
	crash.At(crash.Admitted)
	if given.Holds < n && !partial {
		return 0, given.State, given.Refusal(n)
	}
	return given.Holds, given.State, nil
}

// readmit gives back what an upload was admitted, because it comes to nothing.
func (u *Upload) readmit(ctx context.Context) {
	if len(u.admitted.Taken) == 0 {
		return
	}
	if _, err := u.s.db.Run(ctx, limits.Steps.Refund, u.admitted.Keys, append([]any{limits.GrantName(u.ID, "")}, u.admitted.Taken...)...); err != nil {
		u.s.log.WarnContext(ctx, "what a broken upload was admitted is left to run out", "batch", u.ID, "error", err)
	}
}
