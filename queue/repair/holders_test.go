package repair_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

// The sweeper asks every worker that is alive for what it holds by the ledger.
func TestAWorkerIsAskedForWhatItHolds(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		_, err := b.Ledger.Workers.Beat(b.Ctx, "w1")
		require.NoError(t, err)
		id := b.Submit(5, queuetest.Spec()).ID
		flying := b.Begin(id, 0)
		b.End(id, 1, batch.Succeeded)
		ended := b.LedgerEntry(id, 1)
		old := func(entry string) string { // so old that its holder is sure to know
			e := batches.ParseEntry(entry)
			e.Started = e.Started.Add(-time.Minute)
			return e.String()
		}
		b.Rewind(id, 1, old(ended))
		ahead := batches.Entry{Token: "unheard-of", Attempts: 1, Worker: "w1", First: time.UnixMilli(1000), Started: time.Now().Add(time.Hour)} // by the clock of an earlier master
		for _, set := range [][]any{{"0", old(b.LedgerEntry(id, 0))}, {"2", "unheard-of|1|1000|1000|0|w1"}, {"3", "its|1|1000|1000|0|w2"}, {"4", ahead.String()}} {
			require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Ledger, set...).Err())
		}
		require.NoError(t, b.DB.Client.SetRange(b.Ctx, keys.KeysOf(id).State, 2, "rrr").Err())
		defer b.PubSub.Listen(keys.HoldersChannel, b.Ledger.Restorer.AnswerQuestion)()
		b.Eventually("the subscription", func() bool {
			n, err := b.DB.Client.PubSubNumSub(b.Ctx, keys.HoldersChannel).Result()
			require.NoError(t, err)
			return n[keys.HoldersChannel] > 0 || b.DB.Cluster != nil
		})
		b.Eventually("the answer", func() bool {
			b.Sweeper.AskHoldersNow()
			b.Sweep()
			return b.Read(id).Counts.Succeeded == 1 && batches.ParseEntry(b.LedgerEntry(id, 2)).Worker == "" && batches.ParseEntry(b.LedgerEntry(id, 4)).Worker == ""
		})
		require.Equal(t, "w1", batches.ParseEntry(b.LedgerEntry(id, 0)).Worker, "what it has in flight stays its own")
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, flying.Token, queuetest.Result(0, batch.Succeeded)))
		require.Equal(t, "w2", batches.ParseEntry(b.LedgerEntry(id, 3)).Worker, "a worker that is not alive is given time")
	})
}

func TestABatchThatIsBeingCancelledIsAskedFor(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(2, queuetest.Spec()).ID
		lost, err := b.Ledger.Begin(b.Ctx, id, 0, "missing")
		require.NoError(t, err)
		b.ageAttempt(id, 0)
		_, err = b.Cancel(b.Ctx, "me", id)
		require.NoError(t, err)
		require.Equal(t, batch.StatusCancelling, b.Read(id).Status)
		b.Sweep() // the first round begins without what another sweeper knew
		b.Sweeper.SetMissing("missing", time.Now().Add(-time.Hour))
		b.Sweeper.AskHoldersNow()
		require.Equal(t, 1, b.Sweep().Lost)
		require.Contains(t, b.taskIDs(), tasks.TaskID(id, 0, string(lost.Token)))
	})
}

// A batch that makes progress may still have an action whose task is lost.
func TestAnActionWithoutAWorkerIsFoundWhileItsBatchMakesProgress(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(3, queuetest.Spec()).ID
		b.Begin(id, 0)
		e := b.ageAttempt(id, 0)
		e.Worker = ""
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Ledger, "0", e.String()).Err())
		b.Begin(id, 1)
		young := batches.ParseEntry(b.LedgerEntry(id, 1))
		young.Worker = "" // its worker has given it back just now, and makes its task
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Ledger, "1", young.String()).Err())
		b.End(id, 2, batch.Succeeded)
		b.Sweeper.AskHoldersNow()
		require.Equal(t, 1, b.Sweep().Lost)
		require.Contains(t, b.taskIDs(), tasks.TaskID(id, 0, e.Token))
		require.NotContains(t, b.taskIDs(), tasks.TaskID(id, 1, young.Token))
	})
}

// taskIDs returns the ids of the tasks that wait for a worker.
func (b *bundle) taskIDs() (ids []string) {
	for _, task := range b.Pending(batch.Interactive) {
		ids = append(ids, task.ID)
	}
	return ids
}

// ageAttempt makes the attempt of an action in flight a minute older, and returns its ledger entry.
func (b *bundle) ageAttempt(id string, index int) batches.Entry {
	e := batches.ParseEntry(b.LedgerEntry(id, index))
	e.Started = e.Started.Add(-time.Minute)
	require.NoError(b.T, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Ledger, strconv.Itoa(index), e.String()).Err())
	return e
}

// A batch on a node that is away keeps no other batch from what the check of holders finds.
func TestANodeThatIsAwayCostsNoLookAtTheBatchesOfOthers(t *testing.T) {
	t.Parallel()
	shared, node := queuetest.OpenCluster(t)
	b := local(shared)
	var alive, dead string
	for alive == "" || dead == "" {
		id := b.Submit(1, queuetest.Spec()).ID
		b.Begin(id, 0)
		b.ageAttempt(id, 0) // so old that its holder is asked for it
		if b.DB.NodeOf(b.Ctx, keys.KeysOf(id).Meta).Options().Addr == node.Addr {
			dead = id
		} else {
			alive = id
		}
	}
	node.Kill()
	for _, id := range []string{alive, dead} {
		b.Sweeper.AddRunning(id, map[string]string{"status": string(batch.StatusRunning), "target": "crm"})
	}
	b.Sweeper.AskHoldersNow()
	_, err := b.Sweeper.CheckHolders(b.Ctx)
	require.Error(t, err)
	require.Contains(t, b.Sweeper.Running(), dead, "it is asked for later")
	require.NotContains(t, b.Sweeper.Running(), alive)
	require.NotEmpty(t, b.Sweeper.Missing(), "of those that are read the holders were looked for")
}
