package repair_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/index"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/repair"
)

func TestAnElectionThatRedisRefusesStartsAnAlert(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	require.Zero(t, b.Round())
	require.False(t, b.Sweeper.Alerted())
	stop := p.Answer(redistest.Rule{Reply: "OOM no room", Match: func(words []string) bool {
		return words[0] == "EVALSHA" && words[1] == repair.Steps.Elect.Hash()
	}, Way: redistest.Refused})
	_, ok, err := b.Sweeper.Sweep(b.Ctx, "w1")
	stop()
	require.Error(t, err)
	require.False(t, ok)
	require.True(t, b.Sweeper.Alerted())
}

func TestRecoveringAWorkerAlertsTheSweeperOfAnotherProcess(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	b, other := open(t, url), open(t, url)
	b.Submit(1, queuetest.Spec())
	require.Equal(t, 1, b.Round().Open)
	_, err := other.Sweeper.Recovery.Recover(other.Ctx, "w2", []string{"w9"})
	require.NoError(t, err)
	b.Round()
	require.True(t, b.Sweeper.Alerted())
	require.Less(t, time.Until(b.Sweeper.AlertEnd()), index.AlertFor+time.Second)
}

// Batches become due again while a long round runs. They have their turn in the next one.
func TestARoundLooksOnlyAtWhatWasDueAtItsStart(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		first := b.Submit(1, queuetest.Spec()).ID
		page, err := b.Sweeper.DuePage(b.Ctx, time.Time{})
		require.NoError(t, err)
		require.Equal(t, []string{first}, page.IDs())
		until := page.Now()
		require.NoError(t, b.Sweeper.SetDue(b.Ctx, map[string]time.Time{first: until.Add(time.Millisecond)}))
		b.Eventually("the time at which it is due", func() bool {
			now, err := b.DB.Now(b.Ctx)
			require.NoError(t, err)
			return now.After(until.Add(time.Millisecond))
		})
		page, err = b.Sweeper.DuePage(b.Ctx, until)
		require.NoError(t, err)
		require.Empty(t, page.IDs())
		page, err = b.Sweeper.DuePage(b.Ctx, time.Time{})
		require.NoError(t, err)
		require.Equal(t, []string{first}, page.IDs())
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
	for i := range repair.PageSize + 1 {
		require.NoError(t, b.DB.Client.ZAdd(b.Ctx, keys.OpenKey, queuetest.DueAtOnce(strconv.Itoa(i))).Err())
	}
	require.NoError(t, repair.Steps.DueBatches.Load(b.Ctx, b.DB.Client).Err())
	seen := &looksUpTo{digest: repair.Steps.DueBatches.Hash()}
	b.DB.Client.AddHook(seen)
	before := time.Now().Add(-time.Millisecond)
	b.Round()
	require.Len(t, seen.upTo, 2)
	require.Empty(t, seen.upTo[0], "it is the time of the server")
	require.WithinRange(t, rdb.FromMillis(rdb.Text(seen.upTo[1])), before, time.Now())
}

// The lease of a sweeper that was paused ran out, another worker became the sweeper, took
// batches and died.
func TestASweeperThatIsElectedAfterItsLeaseRanOutLooksAtAll(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.Submit(1, queuetest.Spec())
		b.Round()
		require.NoError(t, b.DB.Client.Del(b.Ctx, keys.SweeperKey).Err())
		require.NoError(t, b.Sweeper.MakeAllDue(b.Ctx))
		page, err := b.Sweeper.DuePage(b.Ctx, time.Time{}) // by the other one
		require.NoError(t, err)
		require.Len(t, page.IDs(), 1)
		b.Sweeper.ForgetChecked()
		b.Round()
		require.NotEmpty(t, b.Sweeper.Checked(), "it was looked at")
		b.Sweeper.ForgetChecked()
		require.NoError(t, b.Sweeper.MakeAllDue(b.Ctx))
		_, err = b.Sweeper.DuePage(b.Ctx, time.Time{})
		require.NoError(t, err)
		b.Round()
		require.Empty(t, b.Sweeper.Checked(), "a renewed lease makes nothing due")
	})
}

func TestTheSweeperForgetsBatchesThatItDoesNotMeetAnyMore(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	kept, deleted := b.Submit(1, queuetest.Spec()).ID, b.Submit(1, queuetest.Spec()).ID
	b.Round()
	require.Len(t, b.Sweeper.Checked(), 2)
	b.Sweeper.PruneNow()
	b.Round()
	require.Len(t, b.Sweeper.Checked(), 2, "it may be looked at later")
	require.NoError(t, b.DB.Client.ZRem(b.Ctx, keys.OpenKey, deleted).Err()) // by another process
	b.Sweeper.AgeSeen(deleted, time.Hour)
	b.Sweeper.PruneNow()
	b.Round()
	require.Len(t, b.Sweeper.Checked(), 1)
	require.Contains(t, b.Sweeper.Checked(), kept)

	require.NoError(t, b.DB.Client.Set(b.Ctx, keys.SweeperKey, "w2", 0).Err())
	_, ok, err := b.Sweeper.Sweep(b.Ctx, "w1")
	require.NoError(t, err)
	require.False(t, ok)
	require.Empty(t, b.Sweeper.Checked(), "the other one looks at them")
}

// Looks for lost tasks take long. What is left of them when their time is over is looked at in
// the next round, and a deadline does not wait for it.
func TestLooksForLostTasksLeaveTimeToDeadlines(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	b.Sweeper.Timing.SlowFor = 0
	stalled := []string{b.Submit(1, queuetest.Spec()).ID, b.Submit(1, queuetest.Spec()).ID, b.Submit(1, queuetest.Spec()).ID}
	b.Round()
	for _, id := range stalled {
		b.DropTask(id, 0)
		b.Sweeper.Age(id, time.Minute)
	}
	s := queuetest.Spec()
	s.ExpiresIn = time.Millisecond
	late := b.Submit(1, s).ID
	b.Eventually("the deadline", func() bool {
		now, err := b.DB.Now(b.Ctx)
		require.NoError(t, err)
		return now.After(b.Read(late).ExpiresAt.Add(2 * time.Millisecond)) // the sweeper compares milliseconds
	})
	require.NoError(t, b.Sweeper.MakeAllDue(b.Ctx))
	swept := b.Round()
	require.Equal(t, 1, swept.Expired)
	require.Equal(t, 1, swept.Lost)
	b.Sweeper.Timing.SlowFor = repair.DefaultSlowFor
	b.Eventually("the looks that were left", func() bool {
		swept.Lost += b.Round().Lost
		return swept.Lost == 3
	})
}

// With many batches open, such looks make no round longer than with few: a deadline that passes
// meanwhile waits for the next round.
func TestLooksForLostTasksBoundTheRoundHoweverManyBatchesAreOpen(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	const batches = repair.PageSize + 10
	for range batches {
		b.Submit(1, queuetest.Spec())
	}
	b.Round()
	require.Len(t, b.Sweeper.Checked(), batches)
	for _, id := range b.Sweeper.Checked() {
		b.Sweeper.Age(id, time.Minute)
	}
	for key := range b.AllKeys() { // Redis forgets what waits
		if strings.HasPrefix(key, "batchd:fair:") {
			require.NoError(t, b.DB.Client.Del(b.Ctx, key).Err())
		}
	}
	b.Sweeper.Timing.SlowFor = 0
	require.NoError(t, b.Sweeper.MakeAllDue(b.Ctx))
	require.Equal(t, 1, b.Round().Lost)
	b.Sweeper.Timing.SlowFor = queuetest.Endless
	lost := 1
	b.Eventually("the looks that were left", func() bool {
		lost += b.Round().Lost
		return lost == batches
	})
}

// A round that takes longer than the lease keeps it.
func TestASweeperKeepsItsLeaseWhileItsRoundLasts(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	b.Sweeper.Timing.RenewEvery = time.Millisecond
	b.Submit(1, queuetest.Spec())
	b.Interrupt("hmget batchd:", false, func() {
		require.NoError(t, b.DB.Client.PExpire(b.Ctx, keys.SweeperKey, time.Second).Err())
		b.Eventually("the lease", func() bool { return b.DB.Client.PTTL(b.Ctx, keys.SweeperKey).Val() > time.Second })
	})
	b.Round()
}

// The round of a sweeper ends when another worker has become the sweeper, and the next round
// knows nothing of what it remembered.
func TestARoundEndsWhenAnotherWorkerIsTheSweeper(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	b.Sweeper.Timing.RenewEvery = time.Millisecond
	id := b.Submit(1, queuetest.Spec()).ID
	b.Round()
	b.Begin(id, 0)
	b.Sweeper.AddRunning(id, map[string]string{"status": "running"})
	b.Sweeper.SetMissing("gone", time.Now())
	require.NoError(t, b.Sweeper.MakeAllDue(b.Ctx))
	b.Interrupt("hmget "+keys.KeysOf(id).Meta, false, func() {
		require.NoError(t, b.DB.Client.Set(b.Ctx, keys.SweeperKey, "w2", 0).Err())
		b.Eventually("the other one", func() bool {
			return b.Sweeper.OtherSweeps()
		})
	})
	_, _, err := b.Sweeper.Sweep(b.Ctx, "w1")
	require.ErrorIs(t, err, repair.ErrOtherSweeps)
	_, ok, err := b.Sweeper.Sweep(b.Ctx, "w1")
	require.NoError(t, err)
	require.False(t, ok)
	require.Empty(t, b.Sweeper.Running(), "the other one asks for them")
	require.Empty(t, b.Sweeper.Missing())
	require.Empty(t, b.Sweeper.Checked())
}

// A look that takes all of its time goes on in the next round.
func TestALongLookGoesOnInTheNextRound(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	b.Background.Stop() // fan-outs in the background break off at once
	id := b.Submit(1250, queuetest.Spec()).ID
	long := time.Now().Add(-time.Minute).UnixMilli()
	require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "created", long, "fanned", long).Err())
	b.Interrupt(fanout.Steps.Progress.Hash(), true, func() { <-time.After(200 * time.Millisecond) })
	b.Sweeper.Timing.LookFor = 100 * time.Millisecond
	require.Zero(t, b.Sweep().Lost)
	b.Sweeper.Timing.LookFor = time.Minute // however busy the machine is
	require.Equal(t, 1, b.Sweep().Resumed, "it does not wait as long as for others")
	require.Equal(t, "1250", b.DB.Client.HGet(b.Ctx, keys.KeysOf(id).Meta, "enqueued").Val())
}

// A process that repeats what Redis has forgotten alerts the sweeper, whichever process that is.
func TestAProcessThatRestoresAlertsTheSweeperOfAnotherProcess(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	b, other := open(t, url), open(t, url)
	b.Submit(1, queuetest.Spec())
	require.Equal(t, 1, b.Round().Open)
	require.False(t, b.Sweeper.Alerted())
	for range 2 { // the worker's last beat is forgotten
		_, err := other.Ledger.Workers.Beat(other.Ctx, "w2")
		require.NoError(t, err)
		other.Silence("w2", time.Minute)
	}
	b.Eventually("the alert", func() bool {
		b.Round()
		return b.Sweeper.Alerted()
	})
}
