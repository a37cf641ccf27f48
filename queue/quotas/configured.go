package quotas

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// ConfiguredKey has the configured quotas of stored bytes, by the kind of account.
	ConfiguredKey = "batchd:quotas:configured"
	// announceEvery is how often a process with the API writes them, and configuredFor how long a process uses what it read.
	announceEvery, configuredFor = time.Minute, time.Second
	// announcedFor is how long they count after the last process with the API has ended. After that, the results of a
	// batch are bounded by the quota of its submission.
	announcedFor = 24 * time.Hour
)

// configured is what a process knows of the configured quotas of stored bytes.
type configured struct {
	mu   sync.Mutex
	all  map[string]string // by kind of account; not changed
	read time.Time
}

// Announce writes the configured quotas of stored bytes, 0 for none, so that they hold for the results of batches that
// were submitted under others.
func (q *Quotas) Announce(ctx context.Context, owner, address int64) error {
	if _, err := q.db.Run(ctx, Steps.Announce, []string{ConfiguredKey}, rdb.Millis(announcedFor),
		string(batch.OwnerAccount), owner, string(batch.AddressAccount), address); err != nil {
		return fmt.Errorf("write the configured quotas: %w", err)
	}
	q.configured.set(nil, time.Time{})
	return nil
}

// KeepAnnounced calls Announce until a context ends, in case that Redis is away or forgets it.
func (q *Quotas) KeepAnnounced(ctx context.Context, owner, address int64) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		again := announceEvery
		if err := q.Announce(ctx, owner, address); err != nil {
			again = time.Second
			q.log.DebugContext(ctx, "configured quotas not announced, trying again", "error", err)
		}
		next.Reset(again)
	}
}

// storedBytes returns the quota that bounds a batch now: the configured one, unless the key of the owner had a quota of
// its own or no process has announced any.
func (q *Quotas) storedBytes(ctx context.Context, b bound) (int64, error) {
	if b.Own {
		return b.Bytes, nil
	}
	all, known := q.configured.recent()
	if !known {
		ctx, cancel := q.db.WithTimeout(ctx)
		defer cancel()
		var err error
		if all, err = q.db.Client.HGetAll(ctx, ConfiguredKey).Result(); err != nil {
			return 0, fmt.Errorf("read the configured quotas: %w", rdb.MapError(ctx, err))
		}
		q.configured.set(all, time.Now())
	}
	if most, ok := all[string(b.Kind)]; ok {
		return rdb.Atoi(most), nil
	}
	return b.Bytes, nil
}

// recent returns what the process read, and whether that was just now.
func (c *configured) recent() (map[string]string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all, time.Since(c.read) < configuredFor
}

func (c *configured) set(all map[string]string, read time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all, c.read = all, read
}
