package queue

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/rdb"
)

func TestAnElectionThatRedisRefusesStartsAnAlert(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	require.Zero(t, b.round())
	require.False(t, b.schedule.alerted())
	stop := p.Answer(redistest.Rule{Reply: "OOM no room", Match: func(words []string) bool {
		return words[0] == "EVALSHA" && words[1] == b.steps.elect.Hash()
	}, Way: redistest.Refused})
	_, ok, err := b.Sweep(b.ctx, "w1")
	stop()
	require.Error(t, err)
	require.False(t, ok)
	require.True(t, b.schedule.alerted())
}

func TestRecoveringAWorkerAlertsTheSweeperOfAnotherProcess(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	b, other := open(t, url), open(t, url)
	b.submit(1, spec())
	require.Equal(t, 1, b.round().Open)
	_, err := other.Recover(other.ctx, "w2", []string{"w9"})
	require.NoError(t, err)
	b.round()
	require.True(t, b.schedule.alerted())
	require.Less(t, time.Until(b.schedule.alert), alertFor+time.Second)
}

// Batches become due again while a long round runs. They have their turn in the next one.
func TestARoundLooksOnlyAtWhatWasDueAtItsStart(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		first := b.submit(1, spec()).ID
		page, err := b.duePage(b.ctx, time.Time{})
		require.NoError(t, err)
		require.Equal(t, []string{first}, page.order)
		until := page.now
		require.NoError(t, b.putDue(b.ctx, map[string]time.Time{first: until.Add(time.Millisecond)}))
		b.eventually("the time at which it is due", func() bool {
			now, err := b.db.Now(b.ctx)
			require.NoError(t, err)
			return now.After(until.Add(time.Millisecond))
		})
		page, err = b.duePage(b.ctx, until)
		require.NoError(t, err)
		require.Empty(t, page.order)
		page, err = b.duePage(b.ctx, time.Time{})
		require.NoError(t, err)
		require.Equal(t, []string{first}, page.order)
	})
}

// looksUpTo records up to when a sweeper takes batches.
type looksUpTo struct {
	digest string
	upTo   []any
}

func (l *looksUpTo) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *looksUpTo) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (l *looksUpTo) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if args := cmd.Args(); err == nil && args[0] == "evalsha" && args[1] == l.digest {
			l.upTo = append(l.upTo, args[len(args)-1])
		}
		return err
	}
}

func TestEveryPageOfARoundHasTheTimeOfTheFirst(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	for i := range sweepPage + 1 {
		require.NoError(t, b.db.Client.ZAdd(b.ctx, openKey, atOnce(strconv.Itoa(i))).Err())
	}
	require.NoError(t, b.steps.looks.Load(b.ctx, b.db.Client).Err())
	seen := &looksUpTo{digest: b.steps.looks.Hash()}
	b.db.Client.AddHook(seen)
	before := time.Now().Add(-time.Millisecond)
	b.round()
	require.Len(t, seen.upTo, 2)
	require.Empty(t, seen.upTo[0], "it is the time of the server")
	require.WithinRange(t, rdb.FromMillis(rdb.Text(seen.upTo[1])), before, time.Now())
}

// The lease of a sweeper that was paused ran out, another worker became the sweeper, took
// batches and died.
func TestASweeperThatIsElectedAfterItsLeaseRanOutLooksAtAll(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.submit(1, spec())
		b.round()
		require.NoError(t, b.db.Client.Del(b.ctx, sweeperKey).Err())
		require.NoError(t, b.dueNow(b.ctx))
		page, err := b.duePage(b.ctx, time.Time{}) // by the other one
		require.NoError(t, err)
		require.Len(t, page.order, 1)
		clear(b.stalls.now)
		b.round()
		require.NotEmpty(t, b.stalls.now, "it was looked at")
		clear(b.stalls.now)
		require.NoError(t, b.dueNow(b.ctx))
		_, err = b.duePage(b.ctx, time.Time{})
		require.NoError(t, err)
		b.round()
		require.Empty(t, b.stalls.now, "a renewed lease makes nothing due")
	})
}

func TestTheSweeperForgetsBatchesThatItDoesNotMeetAnyMore(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	kept, deleted := b.submit(1, spec()).ID, b.submit(1, spec()).ID
	b.round()
	require.Len(t, b.stalls.now, 2)
	b.stalls.pruned = time.Time{}
	b.round()
	require.Len(t, b.stalls.now, 2, "it may be looked at later")
	require.NoError(t, b.db.Client.ZRem(b.ctx, openKey, deleted).Err()) // by another process
	was := b.stalls.now[deleted]
	was.met = was.met.Add(-time.Hour)
	b.stalls.now[deleted], b.stalls.pruned = was, time.Time{}
	b.round()
	require.Len(t, b.stalls.now, 1)
	require.Contains(t, b.stalls.now, kept)

	require.NoError(t, b.db.Client.Set(b.ctx, sweeperKey, "w2", 0).Err())
	_, ok, err := b.Sweep(b.ctx, "w1")
	require.NoError(t, err)
	require.False(t, ok)
	require.Empty(t, b.stalls.now, "the other one looks at them")
}

// Looks for lost tasks take long. What is left of them when their time is over is looked at in
// the next round, and a deadline does not wait for it.
func TestLooksForLostTasksLeaveTimeToDeadlines(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	b.slowFor = 0
	stalled := []string{b.submit(1, spec()).ID, b.submit(1, spec()).ID, b.submit(1, spec()).ID}
	b.round()
	for _, id := range stalled {
		b.dropTask(id, 0)
		was := b.stalls.now[id]
		was.since = was.since.Add(-time.Minute)
		b.stalls.now[id] = was
	}
	s := spec()
	s.ExpiresIn = time.Millisecond
	late := b.submit(1, s).ID
	b.eventually("the deadline", func() bool {
		now, err := b.db.Now(b.ctx)
		require.NoError(t, err)
		return now.After(b.get(late).ExpiresAt.Add(2 * time.Millisecond)) // the sweeper compares milliseconds
	})
	require.NoError(t, b.dueNow(b.ctx))
	swept := b.round()
	require.Equal(t, 1, swept.Expired)
	require.Equal(t, 1, swept.Lost)
	b.slowFor = slowFor
	b.eventually("the looks that were left", func() bool {
		swept.Lost += b.round().Lost
		return swept.Lost == 3
	})
}

// With many batches open, such looks make no round longer than with few: a deadline that passes
// meanwhile waits for the next round.
func TestLooksForLostTasksBoundTheRoundHoweverManyBatchesAreOpen(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	const batches = sweepPage + 10
	for range batches {
		b.submit(1, spec())
	}
	b.round()
	require.Len(t, b.stalls.now, batches)
	for id, was := range b.stalls.now {
		was.since = was.since.Add(-time.Minute)
		b.stalls.now[id] = was
	}
	for key := range b.allKeys() { // Redis forgets what waits
		if strings.HasPrefix(key, "batchd:fair:") {
			require.NoError(t, b.db.Client.Del(b.ctx, key).Err())
		}
	}
	b.slowFor = 0
	require.NoError(t, b.dueNow(b.ctx))
	require.Equal(t, 1, b.round().Lost)
	b.slowFor = endless
	lost := 1
	b.eventually("the looks that were left", func() bool {
		lost += b.round().Lost
		return lost == batches
	})
}

// A round that takes longer than the lease keeps it.
func TestASweeperKeepsItsLeaseWhileItsRoundLasts(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	b.renewEvery = time.Millisecond
	b.submit(1, spec())
	b.interrupt("hmget batchd:", false, func() {
		require.NoError(t, b.db.Client.PExpire(b.ctx, sweeperKey, time.Second).Err())
		b.eventually("the lease", func() bool { return b.db.Client.PTTL(b.ctx, sweeperKey).Val() > time.Second })
	})
	b.round()
}

// The round of a sweeper ends when another worker has become the sweeper, and the next round
// knows nothing of what it remembered.
func TestARoundEndsWhenAnotherWorkerIsTheSweeper(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	b.renewEvery = time.Millisecond
	id := b.submit(1, spec()).ID
	b.round()
	b.begin(id, 0)
	b.holders.note(id, map[string]string{"status": "running"})
	b.holders.missing = map[string]time.Time{"gone": time.Now()}
	require.NoError(t, b.dueNow(b.ctx))
	b.interrupt("hmget "+keysOf(id).meta, false, func() {
		require.NoError(t, b.db.Client.Set(b.ctx, sweeperKey, "w2", 0).Err())
		b.eventually("the other one", func() bool { b.schedule.mu.Lock(); defer b.schedule.mu.Unlock(); return b.schedule.other })
	})
	_, _, err := b.Sweep(b.ctx, "w1")
	require.ErrorIs(t, err, errOtherSweeps)
	_, ok, err := b.Sweep(b.ctx, "w1")
	require.NoError(t, err)
	require.False(t, ok)
	require.Empty(t, b.holders.running, "the other one asks for them")
	require.Empty(t, b.holders.missing)
	require.Empty(t, b.stalls.now)
}

// A look that takes all of its time goes on in the next round.
func TestALongLookGoesOnInTheNextRound(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	b.background.Stop() // fan-outs in the background break off at once
	id := b.submit(1250, spec()).ID
	long := time.Now().Add(-time.Minute).UnixMilli()
	require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(id).meta, "created", long, "fanned", long).Err())
	b.interrupt(b.steps.progress.Hash(), true, func() { <-time.After(200 * time.Millisecond) })
	b.lookFor = 100 * time.Millisecond
	require.Zero(t, b.sweep().Lost)
	b.lookFor = time.Minute // however busy the machine is
	require.Equal(t, 1, b.sweep().Resumed, "it does not wait as long as for others")
	require.Equal(t, "1250", b.db.Client.HGet(b.ctx, keysOf(id).meta, "enqueued").Val())
}

// Of more batches than are asked for at a time, those have their turn first in which nothing
// has happened for the longest time.
func TestHoldersAreAskedForTheOldestBeginsFirst(t *testing.T) {
	t.Parallel()
	var h holders
	began := time.Now()
	since := make(map[string]time.Time)
	meet := func() {
		for i := range 3 * holdersBatches {
			id := strconv.Itoa(i)
			since[id] = began.Add(-time.Duration(i) * time.Second)
			h.note(id, map[string]string{"status": "running"})
		}
	}
	at := func(id string) time.Time { return since[id] }
	for round := range 6 { // every batch has its turn, though all are met again and again
		meet()
		next := h.next(began.Add(time.Duration(round+1)*holdersEvery), at)
		require.Len(t, next, holdersBatches)
		for id := range next {
			i, err := strconv.Atoi(id)
			require.NoError(t, err)
			require.Equal(t, 2-round%3, i/holdersBatches, "round %d", round)
		}
	}
}

// A process that repeats what Redis has forgotten alerts the sweeper, whichever process that is.
func TestAProcessThatRestoresAlertsTheSweeperOfAnotherProcess(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	b, other := open(t, url), open(t, url)
	b.submit(1, spec())
	require.Equal(t, 1, b.round().Open)
	require.False(t, b.schedule.alerted())
	other.restoreTwice(other.ctx)
	b.round()
	require.True(t, b.schedule.alerted())
}
