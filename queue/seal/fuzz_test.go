package seal_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue/seal"
)

// FuzzOpen changes sealed values: only the value itself opens, and only under its label.
func FuzzOpen(f *testing.F) {
	f.Add("batch", "a", 1, []byte("value"), 3, byte(1), "batch", "r", 1)
	f.Add("b", "g", 0, []byte{}, 0, byte(0), "ba", "g", 0)
	f.Add("", "s", -1, []byte{0}, 40, byte(255), "", "", 1<<40)
	sealer, err := seal.New(seal.Config{Keys: []seal.Key{seal.NewKey("one", bytes.Repeat([]byte{1}, 32)), seal.NewKey("two", bytes.Repeat([]byte{2}, 32))}})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, id, kind string, index int, value []byte, at int, flip byte, id2, kind2 string, index2 int) {
		if !slices.Contains(seal.Kinds(), kind) {
			t.Skip("nothing else is sealed")
		}
		label, other := seal.Label{ID: id, Kind: kind, Index: index}, seal.Label{ID: id2, Kind: kind2, Index: index2}
		stored := sealer.Seal(label, value)
		opened, err := sealer.Open(label, stored)
		require.NoError(t, err)
		require.True(t, bytes.Equal(value, opened))
		if id != id2 || kind != kind2 || index != index2 {
			_, err = sealer.Open(other, stored)
			require.ErrorIs(t, err, seal.ErrSealed)
		}
		if flip != 0 {
			changed := bytes.Clone(stored)
			changed[uint(at)%uint(len(changed))] ^= flip
			_, err = sealer.Open(label, changed)
			require.ErrorIs(t, err, seal.ErrSealed)
		}
		_, err = sealer.Open(label, stored[:uint(at)%uint(len(stored))])
		require.ErrorIs(t, err, seal.ErrSealed)
		_, err = sealer.Open(label, value) // any bytes
		require.ErrorIs(t, err, seal.ErrSealed)
	})
}
