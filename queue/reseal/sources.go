package reseal

import (
	"context"
	"fmt"
	"strings"

	"github.com/batchd/batchd/queue/apikeys"
	"github.com/batchd/batchd/queue/owners"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// Places returns the places of all sealed values that belong to no batch.
func Places() []seal.Place { return []seal.Place{owners.Sealed(), apikeys.Sealed()} }

// source is a sort of keys with sealed values.
type source struct {
	// kind is the kind of key, as in lua/stale.lua.
	kind string
	// name names a value, or the key as a whole, for messages.
	name func(key, field string) string
	// reseal returns a value as the first key seals it, and the id of the key that sealed it before.
	reseal func(ctx context.Context, r *Rotation, key string, v stored) (by, sealed string, err error)
}

// stored is a value as it is stored. The field of a list is the position, and that of a string is "".
type stored struct{ field, value string }

// placed returns the source of the values that belong to no batch.
func placed(place seal.Place) *source {
	s := &source{kind: "string", name: func(key, field string) string {
		return place.Name(key, strings.TrimPrefix(field, place.Fields))
	}}
	if place.Fields != "" {
		s.kind = "hash:" + place.Fields
	}
	s.reseal = func(_ context.Context, r *Rotation, key string, v stored) (by, sealed string, err error) {
		by = seal.KeyOf([]byte(v.value))
		label := place.Label(key, strings.TrimPrefix(v.field, place.Fields))
		opened, err := r.seals.Open(label, []byte(v.value))
		if err != nil {
			return by, "", fmt.Errorf("read %s: %w", s.name(key, v.field), err)
		}
		return by, string(r.seals.Seal(label, opened)), nil
	}
	return s
}

// ofBatch returns the source of the values of a batch under one of its keys.
func ofBatch(id, kind string) *source {
	return &source{
		kind: kind, name: func(string, string) string { return "batch " + id },
		reseal: func(ctx context.Context, r *Rotation, key string, v stored) (by, sealed string, err error) {
			if v.field == "head" {
				by = seal.KeyOf([]byte(v.value))
				sealed, err = r.head(ctx, key, id)
				return by, sealed, err
			}
			before, rest, label := v.split(id, kind)
			by = seal.KeyOf([]byte(rest))
			opened, err := r.codec.Open(label.ID, label.Kind, label.Index, []byte(rest))
			if err != nil {
				return by, "", err
			}
			return by, before + string(r.seals.Seal(label, opened)), nil
		},
	}
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

// split splits a value of a batch, other than a head, into what is before the sealed part, that part, and its label.
func (v *stored) split(id, kind string) (before, sealed string, at seal.Label) {
	at = seal.Label{ID: id, Kind: kind}
	switch kind {
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
