package seal

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func sealerWith(t *testing.T, keys ...Key) *Sealer {
	t.Helper()
	s, err := New(Config{Keys: keys})
	require.NoError(t, err)
	return s
}

func keyOf(id string, fill byte) Key { return NewKey(id, bytes.Repeat([]byte{fill}, keySize)) }

func TestSealedValueOpensOnlyUnderItsLabel(t *testing.T) {
	t.Parallel()
	s := sealerWith(t, keyOf("one", 1))
	label := Label{ID: "batch", Kind: "a", Index: 7}
	stored := s.Seal(label, []byte("value"))
	require.NotContains(t, string(stored), "value")
	opened, err := s.Open(label, stored)
	require.NoError(t, err)
	require.Equal(t, "value", string(opened))
	for _, other := range []Label{{ID: "other", Kind: "a", Index: 7}, {ID: "batch", Kind: "r", Index: 7}, {ID: "batch", Kind: "a", Index: 8}} {
		_, err := s.Open(other, stored)
		require.ErrorIs(t, err, ErrSealed)
	}
}

func TestOlderKeyOpensAndFirstKeySeals(t *testing.T) {
	t.Parallel()
	label := Label{ID: "batch", Kind: "m"}
	before := sealerWith(t, keyOf("old", 1))
	stored := before.Seal(label, []byte("value"))
	require.True(t, before.Current(stored))
	both := sealerWith(t, keyOf("new", 2), keyOf("old", 1))
	opened, err := both.Open(label, stored)
	require.NoError(t, err)
	require.Equal(t, "value", string(opened))
	require.False(t, both.Current(stored))
	require.True(t, both.Current(both.Seal(label, opened)))
	_, err = sealerWith(t, keyOf("new", 2)).Open(label, stored)
	require.ErrorIs(t, err, ErrSealed)
	require.ErrorContains(t, err, `key "old" is not in seal.keys`)
}

func TestDamagedValuesDoNotOpen(t *testing.T) {
	t.Parallel()
	s := sealerWith(t, keyOf("one", 1))
	label := Label{ID: "batch", Kind: "a"}
	stored := s.Seal(label, []byte("value"))
	for n := range stored {
		_, err := s.Open(label, stored[:n])
		require.ErrorIs(t, err, ErrSealed, n)
	}
	_, err := s.Open(label, []byte{7, 1, 2})
	require.ErrorContains(t, err, "unknown format 0x7")
}

func TestWithoutKeysValuesAreStoredInClear(t *testing.T) {
	t.Parallel()
	s := sealerWith(t)
	require.False(t, s.Enabled())
	stored := s.Seal(Label{}, []byte("value"))
	require.Equal(t, "\x00value", string(stored))
	require.True(t, s.Current(stored))
	opened, err := s.Open(Label{ID: "any"}, stored)
	require.NoError(t, err)
	require.Equal(t, "value", string(opened))
}
