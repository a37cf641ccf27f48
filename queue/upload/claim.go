package upload

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// claimKey decides which upload owns the idempotency key. An upload may commit only while its marker
// exists, and another upload takes the key only if the owner has neither a marker nor a batch. So at
// most one of two uploads can commit.
func (u *upload) claimKey(ctx context.Context) error {
	holder, err := u.markAndClaim(ctx)
	for {
		if err != nil || holder == u.id {
			return err
		}
		var exists, busy bool
		exists, busy, err = u.s.lookUp(ctx, holder)
		switch {
		case err != nil:
			return err
		case exists:
			u.marker.remove(ctx)
			u.id, u.keys, u.replay = holder, keys.KeysOf(holder), true
			return nil
		case busy:
			return batch.ErrKeyBusy
		}
		holder, err = u.claimFrom(ctx, holder)
	}
}

// markAndClaim sets the marker, claims the key, and returns the id of the key's owner.
func (u *upload) markAndClaim(ctx context.Context) (holder string, err error) {
	if u.s.db.Cluster != nil { // commands to several servers of a cluster have no order
		if err := u.marker.renew(ctx); err != nil {
			return "", err
		}
		return u.claimFrom(ctx, "")
	}
	ctx, cancel := u.s.db.WithTimeout(ctx)
	defer cancel()
	u.marker.at = time.Now()
	pipe := u.s.db.Client.Pipeline()
	mark := pipe.Set(ctx, u.keys.Upload, 1, markerTTL)
	claim := pipe.EvalSha(ctx, Steps.Claim.Hash(), []string{u.claim}, claimArgs("", u.id)...)
	u.s.db.Send(ctx, pipe)
	if err := mark.Err(); err != nil {
		return "", rdb.MapError(ctx, err)
	}
	claim = u.s.db.AnswerOf(ctx, Steps.Claim, claim)
	return rdb.Text(claim.Val()), rdb.MapError(ctx, claim.Err())
}

// claimFrom takes the key from an upload that failed, and returns the id of the key's owner.
func (u *upload) claimFrom(ctx context.Context, seen string) (holder string, err error) {
	answer, err := u.s.db.Run(ctx, Steps.Claim, []string{u.claim}, claimArgs(seen, u.id)...)
	if err != nil {
		return "", err
	}
	return answer[0], nil
}

// unclaim removes the idempotency key of an upload that will not commit. Otherwise it would stay for [claimTTL], and
// refused submissions with ever new keys would fill the store.
func (s *Uploads) unclaim(ctx context.Context, key, id string) {
	if key == "" {
		return
	}
	err := rdb.RetryUnavailable(ctx, func() error {
		_, err := s.db.Run(ctx, Steps.Unclaim, []string{key}, id)
		return err
	})
	if err != nil {
		s.log.WarnContext(ctx, "idempotency key of an aborted upload not removed, it will expire", "batch", id, "error", err)
	}
}

// lookUp reports whether a batch exists and whether its upload is open, both at the same moment.
func (s *Uploads) lookUp(ctx context.Context, id string) (exists, open bool, err error) {
	k := keys.KeysOf(id)
	answer, err := s.db.Run(ctx, Steps.LookUp, []string{k.Meta, k.Upload})
	if err != nil {
		return false, false, fmt.Errorf("look for batch %s: %w", id, err)
	}
	if len(answer) != 2 {
		return false, false, rdb.ErrAnswer
	}
	return answer[0] == "1", answer[1] == "1", nil
}

// claimArgs returns the arguments of lua/claim.lua.
func claimArgs(seen, id string) []any { return []any{seen, id, rdb.Millis(claimTTL)} }

// marker is a key that exists while an upload with an idempotency key, or under a limit, is open.
type marker struct {
	db    *rdb.DB
	log   *slog.Logger
	batch string
	key   string
	at    time.Time // when the key was last set or renewed; zero if the upload has no marker
}

// exists reports whether the upload has set its marker. It may have expired since.
func (m *marker) exists() bool { return !m.at.IsZero() }

// renew sets the marker, or extends its life. It does not set a marker again that has expired: another
// upload may have claimed the idempotency key.
func (m *marker) renew(ctx context.Context) error {
	ctx, cancel := m.db.WithTimeout(ctx)
	defer cancel()
	var err error
	if m.exists() {
		err = m.db.Client.PExpire(ctx, m.key, markerTTL).Err()
	} else {
		err = m.db.Client.Set(ctx, m.key, 1, markerTTL).Err()
	}
	m.at = time.Now()
	return rdb.MapError(ctx, err)
}

// keep renews the marker of an upload that takes long.
func (m *marker) keep(ctx context.Context) error {
	if !m.exists() || time.Since(m.at) < markerTTL/4 {
		return nil
	}
	return m.renew(batch.WithBudget(ctx, m.db.Timeout/2))
}

// remove frees the idempotency key. While Redis is away it repeats that for about as long as the marker lives.
func (m *marker) remove(ctx context.Context) {
	if err := m.db.Unlink(ctx, m.key); err != nil {
		m.log.WarnContext(ctx, "upload marker not removed, it will expire", "batch", m.batch, "error", err)
	}
}
