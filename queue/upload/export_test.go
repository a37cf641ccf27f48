package upload

import (
	"context"
	"time"

	"github.com/batchd/batchd/queue/keys"
)

const (
	ChunkActions     = chunkActions
	ClaimTTL         = claimTTL
	MarkerTTL        = markerTTL
	MemoryRetryAfter = memoryRetryAfter
	ListTTL          = listTTL
	StagedTTL        = stagedTTL
)

// AgeMemory makes the last reading of Redis's memory too old to be used.
func (s *Uploads) AgeMemory() { s.memory.at = s.memory.at.Add(-memoryEvery) }

// Upload is a submission that is being made.
type Upload = upload

func (u *upload) ID() string { return u.id }

func (u *upload) Keys() keys.BatchKeys { return u.keys }

func (u *upload) Claim() string { return u.claim }

func (u *upload) Replay() bool { return u.replay }

// BeDoubtful has the upload take it that a commit was tried.
func (u *upload) BeDoubtful() { u.doubtful = true }

// MarkedAt changes when the marker was last set or renewed.
func (u *upload) MarkedAt(at time.Time) { u.marker.at = at }

func (u *upload) Flush(ctx context.Context) error { return u.flush(ctx) }

func (u *upload) Settle(ctx context.Context) error { return u.settle(ctx) }

func (u *upload) StageGroups(ctx context.Context) error { return u.stageGroups(ctx) }

func (u *upload) StageKeys() []string { return u.stageKeys() }

func (u *upload) StageArgs() []any { return u.stageArgs() }

func (u *upload) Index(ctx context.Context, throttled bool) error { return u.index(ctx, throttled) }

func (u *upload) List(ctx context.Context, created string, keep bool) error {
	return u.list(ctx, created, keep)
}
