package seal

import (
	"bytes"
	"strconv"
	"testing"
	"time"

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
	for bit := range 8 * len(stored) {
		flipped := bytes.Clone(stored)
		flipped[bit/8] ^= 1 << (bit % 8)
		_, err := s.Open(label, flipped)
		require.ErrorIs(t, err, ErrSealed, bit)
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

func TestWithKeysValuesInClearAreRefusedButForAMigration(t *testing.T) {
	t.Parallel()
	label := Label{ID: "batch", Kind: "a"}
	inClear := sealerWith(t).Seal(label, []byte("value"))
	_, err := sealerWith(t, keyOf("one", 1)).Open(label, inClear)
	require.ErrorIs(t, err, ErrSealed)
	require.ErrorContains(t, err, "in clear")

	s, err := New(Config{Keys: []Key{keyOf("one", 1)}, AcceptClearUntil: "2027-01-31"})
	require.NoError(t, err)
	for at, accepted := range map[string]bool{
		"2026-01-01T00:00:00Z": true, "2027-01-31T23:59:59Z": true, "2027-02-01T00:00:00Z": false, "2030-01-01T00:00:00Z": false,
	} {
		s.now = func() time.Time {
			now, err := time.Parse(time.RFC3339, at)
			require.NoError(t, err)
			return now
		}
		require.Equal(t, accepted, s.AcceptsClear(), at)
		opened, err := s.Open(label, inClear)
		if !accepted {
			require.ErrorIs(t, err, ErrSealed, at)
			continue
		}
		require.NoError(t, err, at)
		require.Equal(t, "value", string(opened))
		require.False(t, s.Current(inClear))
	}
	_, err = New(Config{AcceptClearUntil: "31.1.2027"})
	require.ErrorContains(t, err, "2027-01-31")
}

func TestEachBatchHasAKeyOfItsOwn(t *testing.T) {
	t.Parallel()
	s := sealerWith(t, keyOf("one", 1))
	one, two := Label{ID: "batch 1", Kind: "a"}, Label{ID: "batch 2", Kind: "a"}
	a, err := s.ring["one"].derive(one.ID)
	require.NoError(t, err)
	b, err := s.ring["one"].derive(two.ID)
	require.NoError(t, err)
	sealed := a.Seal(nil, nil, []byte("value"), nil) //nolint:gosec // the nonce is random, made by the AEAD itself
	_, err = a.Open(nil, nil, sealed, nil)
	require.NoError(t, err)
	_, err = b.Open(nil, nil, sealed, nil)
	require.Error(t, err)
	for i := range 3 * cachedKeys { // whatever the cache has forgotten
		at := Label{ID: strconv.Itoa(i % (2 * cachedKeys)), Kind: "a"}
		opened, err := s.Open(at, s.Seal(at, []byte(at.ID)))
		require.NoError(t, err)
		require.Equal(t, at.ID, string(opened))
	}
}

// A kind that no rotation knows is a fault of the program.
func TestAKindThatIsNotRegisteredIsNotSealed(t *testing.T) {
	t.Parallel()
	s := sealerWith(t, keyOf("one", 1))
	for _, kind := range Kinds() {
		require.NotPanics(t, func() { s.Seal(Label{ID: "x", Kind: kind}, nil) })
	}
	for _, kind := range []string{"", "x", "aa"} {
		require.Panics(t, func() { s.Seal(Label{ID: "x", Kind: kind}, nil) }, kind)
	}
}

func TestNoTwoLabelsAreTheSame(t *testing.T) {
	t.Parallel()
	seen := map[string]Label{}
	texts := []string{"", "a", "ab", "b", "1", "a1", "12"}
	for _, id := range texts {
		for _, kind := range texts {
			for _, bound := range texts {
				for _, index := range []int{0, 1, 2, 11, 12, 112, -1} {
					l := Label{ID: id, Kind: kind, Index: index, Bound: []byte(bound)}
					encoded := string(l.append(nil))
					other, same := seen[encoded]
					require.False(t, same, "%+v and %+v", l, other)
					seen[encoded] = l
				}
			}
		}
	}
}
