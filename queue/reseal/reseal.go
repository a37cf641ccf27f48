// Package reseal seals what is stored with the first key of the ring, so that an operator can drop the other keys.
//
// Workers and the API go on meanwhile: a value is replaced only if it is still the one that was read, and a value
// that changed is looked at in the next pass. Whatever is sealed with the first key already is left alone, so a
// rotation that was interrupted goes on where it ended.
package reseal

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/owners"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

const (
	// scanCount is about how many keys one page of SCAN has.
	scanCount = 500
	// fieldCount is about how many fields of a hash one step looks at.
	fieldCount = 200
	// mostPasses is how often a rotation looks at all keys, if each pass finds values that the first key did not seal.
	mostPasses = 10
	// mostFaults is the most errors of values that a report has.
	mostFaults = 20
)

// Rotation seals stored values with the first key of the ring.
type Rotation struct {
	db     *rdb.DB
	seals  *seal.Sealer
	codec  *batches.Codec
	owners *owners.Owners

	// Progress is called after each page of keys. Defaults to nothing.
	Progress func(Report)
}

// Report says what a rotation has done. Its last pass decides whether other keys are needed.
type Report struct {
	Passes   int // over all keys
	Keys     int // of batches that this pass has looked at
	Values   int // that this pass has looked at
	Resealed int // values that were sealed with the first key, in all passes
	Changed  int // values that changed while the last pass looked at them
	// Left has the number of values of the last pass that could not be opened, by the id of their key; the id "" stands for
	// values in clear, and for those whose beginning is damaged.
	Left map[string]int
	// Faults are values that could not be opened, the first ones only. Each error names its batch.
	Faults []error

	complete bool
}

// New returns a rotation over the batches in a Redis.
func New(db *rdb.DB, seals *seal.Sealer, all *batches.Batches) *Rotation {
	return &Rotation{db: db, seals: seals, codec: all.Codec, owners: all.Owners, Progress: func(Report) {}}
}

// Run looks at all stored values, and seals those with the first key that it did not seal, until a pass over all keys
// finds none that it can open. It may be interrupted and repeated at any time.
func (r *Rotation) Run(ctx context.Context) (Report, error) {
	var report Report
	for {
		report.Passes++
		report.Keys, report.Values, report.Left, report.Faults = 0, 0, make(map[string]int), nil
		report.Changed = 0
		if _, err := r.owners.Hash(ctx, "reseal"); err != nil { // which seals the salt
			return report, err
		}
		before := report.Resealed
		if err := r.pass(ctx, &report); err != nil {
			return report, err
		}
		if report.Resealed+report.Changed == before {
			report.complete = len(report.Left) == 0
			return report, nil
		}
		if report.Passes == mostPasses {
			return report, nil
		}
	}
}

// pass looks at all keys of batches once.
func (r *Rotation) pass(ctx context.Context, report *Report) error {
	scan := func(ctx context.Context, node redis.Cmdable) error {
		for cursor := uint64(0); ; {
			names, next, err := r.scan(ctx, node, cursor)
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := r.key(ctx, name, report); err != nil {
					return err
				}
			}
			r.Progress(*report)
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	if r.db.Cluster == nil {
		return scan(ctx, r.db.Client)
	}
	var mu sync.Mutex
	var nodes []*redis.Client
	if err := r.db.Cluster.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		nodes = append(nodes, node)
		return nil
	}); err != nil {
		return fmt.Errorf("list the nodes: %w", rdb.MapError(ctx, err))
	}
	for _, node := range nodes {
		if err := scan(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

// scan returns a page of the keys of batches on a server.
func (r *Rotation) scan(ctx context.Context, node redis.Cmdable, cursor uint64) (names []string, next uint64, err error) {
	err = rdb.RetryUnavailable(ctx, func() error {
		ctx, cancel := r.db.WithTimeout(ctx)
		defer cancel()
		names, next, err = node.Scan(ctx, cursor, "batchd:{*}:[agmrw]", scanCount).Result()
		return rdb.MapError(ctx, err)
	})
	return names, next, err
}

// key seals the values of one key.
func (r *Rotation) key(ctx context.Context, name string, report *Report) error {
	id, kind, ok := strings.Cut(strings.TrimPrefix(name, "batchd:{"), "}:")
	if !ok || !keys.IsBatchID(id) {
		return nil
	}
	report.Keys++
	for cursor := "0"; ; {
		var answer []string
		err := rdb.RetryUnavailable(ctx, func() (err error) {
			answer, err = r.db.Run(ctx, Steps.Stale, []string{name}, kind, cursor, fieldCount, r.seals.Prefix())
			return err
		})
		if err != nil {
			return fmt.Errorf("look at batch %s: %w", id, err)
		}
		if len(answer) < 2 || len(answer)%2 != 0 {
			return rdb.ErrAnswer
		}
		report.Values += int(rdb.Atoi(answer[1]))
		for i := 2; i < len(answer); i += 2 {
			if err := r.value(ctx, name, &stored{id, kind, answer[i], answer[i+1]}, report); err != nil {
				return err
			}
		}
		if cursor = answer[0]; cursor == "0" {
			return nil
		}
	}
}

// value seals one value, unless it changed meanwhile.
func (r *Rotation) value(ctx context.Context, name string, v *stored, report *Report) error {
	by, sealed, err := r.reseal(ctx, name, v)
	if err != nil {
		if rdb.IsUnavailable(err) {
			return err
		}
		report.Left[by]++
		if len(report.Faults) < mostFaults {
			report.Faults = append(report.Faults, err)
		}
		return nil
	}
	var answer []string
	err = rdb.RetryUnavailable(ctx, func() (err error) {
		answer, err = r.db.Run(ctx, Steps.Swap, []string{name}, v.key, v.field, v.value, sealed)
		return err
	})
	if err != nil {
		return fmt.Errorf("reseal a value of batch %s: %w", v.id, err)
	}
	if answer[0] != "1" {
		report.Changed++
		return nil
	}
	report.Resealed++
	return nil
}

// reseal returns the value as the first key seals it, and the id of the key that sealed it before.
func (r *Rotation) reseal(ctx context.Context, name string, v *stored) (by, sealed string, err error) {
	if v.field == "head" {
		by = seal.KeyOf([]byte(v.value))
		sealed, err = r.head(ctx, name, v.id)
		return by, sealed, err
	}
	before, rest, label := v.split()
	by = seal.KeyOf([]byte(rest))
	opened, err := r.codec.Open(label.ID, label.Kind, label.Index, []byte(rest))
	if err != nil {
		return by, "", err
	}
	return by, before + string(r.seals.Seal(label, opened)), nil
}

// head returns the head of a batch as the first key seals it.
func (r *Rotation) head(ctx context.Context, name, id string) (sealed string, err error) {
	var m map[string]string
	err = rdb.RetryUnavailable(ctx, func() (err error) {
		ctx, cancel := r.db.WithTimeout(ctx)
		defer cancel()
		m, err = r.db.Client.HGetAll(ctx, name).Result()
		return rdb.MapError(ctx, err)
	})
	if err != nil {
		return "", err
	}
	if len(m) > 0 { // the batch exists
		if err := r.codec.Verify(id, m); err != nil {
			return "", err
		}
	}
	return string(r.codec.SealHead(id, m)), nil
}

// stored is a value as it is stored.
type stored struct {
	id    string // of the batch
	key   string // the kind of its key, as in lua/stale.lua
	field string
	value string
}

// split splits a value, other than a head, into what is before the sealed part, that part, and its label.
func (v *stored) split() (before, sealed string, at seal.Label) {
	at = seal.Label{ID: v.id, Kind: v.key}
	switch v.key {
	case "m", "w":
		return "", v.value, at
	case "g":
		if index, last := strings.CutPrefix(v.field, "o"); last {
			at.Kind, at.Index = "o", int(rdb.Atoi(index))
			return v.value[:min(1, len(v.value))], v.value[min(1, len(v.value)):], at
		}
		at.Index = int(rdb.Atoi(v.field))
		parts := strings.SplitN(v.value, "|", 3)
		if len(parts) < 3 {
			return "", v.value, at
		}
		return parts[0] + "|" + parts[1] + "|", parts[2], at
	}
	at.Index = int(rdb.Atoi(v.field))
	return "", v.value, at
}

// Complete reports whether the last pass found nothing that another key than the first has sealed.
func (r Report) Complete() bool { return r.complete }
