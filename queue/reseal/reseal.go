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
	db    *rdb.DB
	seals *seal.Sealer
	codec *batches.Codec

	// Progress is called after each page of keys. Defaults to nothing.
	Progress func(Report)
}

// Report says what a rotation has done. Its last pass decides whether other keys are needed.
type Report struct {
	Passes   int // over all keys
	Keys     int // of Redis that this pass has looked at
	Values   int // that this pass has looked at
	Resealed int // values that were sealed with the first key, in all passes
	Changed  int // values that changed while the last pass looked at them
	// Left has the number of values of the last pass that could not be opened, by the id of their key; the id "" stands for
	// values in clear, and for those whose beginning is damaged.
	Left map[string]int
	// Faults are values that could not be opened, the first ones only. Each error names its batch, or what it is.
	Faults []error

	complete bool
}

// New returns a rotation over all sealed values in a Redis.
func New(db *rdb.DB, seals *seal.Sealer, all *batches.Batches) *Rotation {
	return &Rotation{db: db, seals: seals, codec: all.Codec, Progress: func(Report) {}}
}

// Run looks at all stored values, and seals those with the first key that it did not seal, until a pass over all keys
// finds none that it can open. It may be interrupted and repeated at any time.
func (r *Rotation) Run(ctx context.Context) (Report, error) {
	var report Report
	for {
		report.Passes++
		report.Keys, report.Values, report.Left, report.Faults = 0, 0, make(map[string]int), nil
		report.Changed = 0
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

// pass looks at all places of sealed values once.
func (r *Rotation) pass(ctx context.Context, report *Report) error {
	for _, place := range Places() {
		look := func(name string) error { return r.key(ctx, placed(place), name, report) }
		if !strings.Contains(place.Key, "*") {
			if err := look(place.Key); err != nil {
				return err
			}
		} else if err := r.each(ctx, place.Key, look, report); err != nil {
			return err
		}
	}
	return r.each(ctx, "batchd:{*}:[agmrw]", func(name string) error {
		id, kind, ok := strings.Cut(strings.TrimPrefix(name, "batchd:{"), "}:")
		if !ok || !keys.IsBatchID(id) {
			return nil
		}
		return r.key(ctx, ofBatch(id, kind), name, report)
	}, report)
}

// each calls look for all keys that match a pattern.
func (r *Rotation) each(ctx context.Context, pattern string, look func(name string) error, report *Report) error {
	scan := func(ctx context.Context, node redis.Cmdable) error {
		for cursor := uint64(0); ; {
			names, next, err := r.scan(ctx, node, pattern, cursor)
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := look(name); err != nil {
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

// scan returns a page of the keys on a server that match a pattern.
func (r *Rotation) scan(ctx context.Context, node redis.Cmdable, pattern string, cursor uint64) (names []string, next uint64, err error) {
	err = rdb.RetryUnavailable(ctx, func() error {
		ctx, cancel := r.db.WithTimeout(ctx)
		defer cancel()
		names, next, err = node.Scan(ctx, cursor, pattern, scanCount).Result()
		return rdb.MapError(ctx, err)
	})
	return names, next, err
}

// key seals the values of one key.
func (r *Rotation) key(ctx context.Context, of *source, name string, report *Report) error {
	report.Keys++
	for cursor := "0"; ; {
		var answer []string
		err := rdb.RetryUnavailable(ctx, func() (err error) {
			answer, err = r.db.Run(ctx, Steps.Stale, []string{name}, of.kind, cursor, fieldCount, r.seals.Prefix())
			return err
		})
		if err != nil {
			return fmt.Errorf("look at %s: %w", of.name(name, ""), err)
		}
		if len(answer) < 2 || len(answer)%2 != 0 {
			return rdb.ErrAnswer
		}
		report.Values += int(rdb.Atoi(answer[1]))
		for i := 2; i < len(answer); i += 2 {
			if err := r.value(ctx, of, name, stored{answer[i], answer[i+1]}, report); err != nil {
				return err
			}
		}
		if cursor = answer[0]; cursor == "0" {
			return nil
		}
	}
}

// value seals one value, unless it changed meanwhile.
func (r *Rotation) value(ctx context.Context, of *source, name string, v stored, report *Report) error {
	by, sealed, err := of.reseal(ctx, r, name, v)
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
		answer, err = r.db.Run(ctx, Steps.Swap, []string{name}, of.kind, v.field, v.value, sealed)
		return err
	})
	if err != nil {
		return fmt.Errorf("reseal %s: %w", of.name(name, v.field), err)
	}
	if answer[0] != "1" {
		report.Changed++
		return nil
	}
	report.Resealed++
	return nil
}

// Complete reports whether the last pass found nothing that another key than the first has sealed.
func (r Report) Complete() bool { return r.complete }
