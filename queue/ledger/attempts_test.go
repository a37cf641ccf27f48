package ledger

import (
	"bytes"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

func TestHistoriesThatChangeAreNoticed(t *testing.T) {
	t.Parallel()
	changes := 0
	h := NewHistory()
	h.onChange(func() { changes++ })
	info := func(id string) string {
		return "# Replication\r\nrole:master\r\nmaster_replid:" + id + "\r\nmaster_replid2:x\r\n"
	}
	for _, step := range []struct {
		info string
		want int
	}{
		{"", 0},
		{info("0000000000000000000000000000000000000000"), 0},
		{info("a"), 0},
		{info("a"), 0},
		{info("b"), 1},
		{info("b"), 1},
		{info("a"), 1},
		{info("c"), 2},
	} {
		h.observe(step.info)
		require.Equal(t, step.want, changes, step.info)
	}
	h.expectNew = true
	h.observe(info("d"))
	require.Equal(t, 2, changes, "another server of a cluster")
}

func TestAttemptsAreRememberedForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newAttempts()
		run := func(index int, token string, size int) {
			a := m.begin("b", index, token)
			m.begun(a, &batch.Begun{Token: batch.Token(token), Attempt: 1}, "")
			if size > 0 {
				m.end("b", index, token, "S", make([]byte, size), nil)
			}
		}
		run(0, "flying", 0)
		run(1, "ended", 1)
		time.Sleep(attemptLasts)
		require.Len(t, m.all(), 2)
		time.Sleep(time.Millisecond)
		require.Len(t, m.all(), 1, "what is in flight is never forgotten")
		for i := range 40 {
			run(10+i, "t"+strconv.Itoa(i), 1<<20)
		}
		require.Len(t, m.all(), attemptBytes>>20, "one is in flight, and each takes a little more than its result")
		found, _ := m.known("b", 10, "t0")
		require.Nil(t, found, "the oldest go")
		m.abandon("b", 0, "flying")
		_, inHand := m.known("b", 0, "flying")
		require.False(t, inHand)
		time.Sleep(time.Hour)
		require.False(t, m.busy())
		require.LessOrEqual(t, m.ended.bytes, recentChunk)
	})
}

func TestAnAttemptThatHasEndedIsRememberedAsItWas(t *testing.T) {
	t.Parallel()
	m := newAttempts()
	want := make(map[actionKey]attempt)
	began := rdb.FromMillis("1795958661272")
	for i := range 3 * recentChunk / 400 { // in several chunks
		id, token := "b"+strconv.Itoa(i%7), "token"+strconv.Itoa(i)
		a := m.begin(id, i, token)
		m.begun(a, &batch.Begun{
			Token: batch.Token(token), Worker: "w1", Attempt: 1 + i%3, Earlier: i % 2, FirstAt: began.Add(-time.Duration(i) * time.Millisecond), StartedAt: began,
		}, strconv.Itoa(i%4))
		var group []any
		if i%50 == 0 {
			group = []any{"arg", []byte("sealed")}
		}
		m.end(id, i, token, "F", bytes.Repeat([]byte{byte(i)}, i%500), group)
		want[a.actionKey] = *a
	}
	require.Greater(t, len(m.ended.chunks), 2)
	all := m.all()
	require.Len(t, all, len(want))
	for _, got := range all {
		as := want[got.actionKey]
		require.Equal(t, as.entry.String(), got.entry.String())
		require.True(t, as.at.Equal(got.at))
		require.True(t, bytes.Equal(as.result, got.result))
		require.Equal(t, []any{as.state, as.group}, []any{got.state, got.group})
		found, inHand := m.known(got.id, got.index, got.entry.Token)
		require.False(t, inHand)
		require.Equal(t, as.entry.String(), found.entry.String())
	}
	m.begun(m.begin("b0", 0, "again"), &batch.Begun{Token: "again", Attempt: 2}, "")
	require.Len(t, m.all(), len(want), "the newer one in place of the other")
}

// An attempt that does not begin leaves what is known of the one before.
func TestAnAttemptThatDoesNotBeginHidesNoOther(t *testing.T) {
	t.Parallel()
	m := newAttempts()
	first := m.begin("b", 0, "one")
	m.begun(first, &batch.Begun{Token: "one", Attempt: 1}, "")
	m.end("b", 0, "one", "S", []byte("result"), nil)
	second, third := m.begin("b", 0, "two"), m.begin("b", 0, "three")
	require.True(t, m.before(second).finished())
	m.notBegun(second)
	require.True(t, m.before(third).finished())
	_, inHand := m.known("b", 0, "one")
	require.True(t, inHand, "it is being begun again")
	m.notBegun(third)
	found, inHand := m.known("b", 0, "one")
	require.False(t, inHand)
	require.Equal(t, "result", string(found.result))
}
