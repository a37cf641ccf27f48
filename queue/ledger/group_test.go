package ledger_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

func (b *bundle) note(id string, begun *batch.Begun, staged *batch.Result) error {
	b.T.Helper()
	begun.Group.Seq++
	now, err := b.Ledger.SaveGroup(b.Ctx, id, begun.Token, begun.Group, staged)
	if err == nil {
		require.WithinDuration(b.T, time.Now(), now, time.Minute)
	}
	return err
}

func TestAGroupIsBegunByItsFirstActionAlone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Grouped(queuetest.Spec())
		for _, index := range []int{3, 4} {
			begun, err := b.Ledger.Begin(b.Ctx, id, index, "w1")
			require.NoError(t, err)
			require.Equal(t, batch.Waiting, begun.Verdict)
		}
		require.Nil(t, b.Begin(id, 0).Group)
		begun := b.Begin(id, 1)
		require.Equal(t, &batch.Group{Name: "g", Members: []batch.Member{{Index: 1, ID: "a-1"}, {Index: 3, ID: "a-3"}, {Index: 4, ID: "a-4"}}}, begun.Group)
		require.Len(t, b.Begin(id, 5).Group.Members, 1)
		begun, err := b.Ledger.Begin(b.Ctx, id, 3, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Waiting, begun.Verdict, "also once the group has begun")
		member, err := b.Ledger.Member(b.Ctx, id, 4)
		require.NoError(t, err)
		require.Equal(t, "/items/4", member.Path)
		require.Equal(t, "/x", member.Undo.Path)
		require.Equal(t, batch.Counts{Total: 6, Pending: 6}, b.Read(id).Counts)
	})
}

func TestAGroupIsTakenOverFromItsRecord(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Grouped(queuetest.Spec())
		first := b.Begin(id, 1)
		first.Group.Step, first.Group.Sent, first.Group.Transaction = batch.GroupMember, true, "secret-tx"
		for range 2 { // its answer is lost, and it is repeated
			_, err := b.Ledger.SaveGroup(b.Ctx, id, first.Token, first.Group, nil)
			require.NoError(t, err)
		}
		require.NoError(t, b.note(id, first, queuetest.Result(1, batch.Succeeded)))

		second := b.Begin(id, 1)
		require.NotEqual(t, first.Token, second.Token)
		require.Equal(t, 2, second.Attempt)
		require.Equal(t, first.Group, second.Group)
		require.ErrorIs(t, b.note(id, first, nil), batch.ErrStale)
		failed := []batch.Result{*queuetest.Result(1, batch.Failed), *queuetest.Result(3, batch.Failed), *queuetest.Result(4, batch.Failed)}
		require.ErrorIs(t, b.Ledger.FinishGroup(b.Ctx, id, first.Token, first.Group, failed), batch.ErrStale)
		third := b.Begin(id, 1)
		require.Equal(t, second.Group, third.Group, "a stale write changes nothing")

		third.Group.At = 2
		require.NoError(t, b.note(id, third, nil))
		old := *third.Group
		old.Seq, old.At = 0, 0
		_, err := b.Ledger.SaveGroup(b.Ctx, id, third.Token, &old, nil)
		require.NoError(t, err)
		require.Equal(t, 2, b.Begin(id, 1).Group.At, "a late repetition does not take the record back")
		for key := range b.AllKeys() {
			require.NotContains(t, key, "secret-tx")
		}
		stored, err := b.DB.Client.HGet(b.Ctx, keys.KeysOf(id).Groups, "1").Result()
		require.NoError(t, err)
		require.NotContains(t, stored, "secret-tx")
		require.True(t, strings.HasPrefix(stored, "1,3,4|"))
	})
}

func TestAGroupIsNotTakenFromAWorkerThatIsAlive(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Grouped(queuetest.Spec())
		first := b.Begin(id, 1)
		_, err := b.Ledger.Workers.Beat(b.Ctx, "w1")
		require.NoError(t, err)
		other, err := b.Ledger.Begin(b.Ctx, id, 1, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Held, other.Verdict)
		require.NoError(t, b.note(id, first, nil), "it is still the first one's")

		first.Group.Paused = true
		require.NoError(t, b.note(id, first, nil))
		other, err = b.Ledger.Begin(b.Ctx, id, 1, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Run, other.Verdict, "given back")
		require.ErrorIs(t, b.note(id, first, nil), batch.ErrStale)

		_, err = b.Ledger.Workers.Beat(b.Ctx, "w2")
		require.NoError(t, err)
		again, err := b.Ledger.Begin(b.Ctx, id, 1, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Run, again.Verdict, "nobody waits for oneself")
		require.NoError(t, b.Ledger.Workers.Leave(b.Ctx, "w2"))
		require.Equal(t, batch.Run, b.Begin(id, 1).Verdict)
	})
}

func TestAGroupEndsInOneStep(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		s := queuetest.Spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.Grouped(s)
		for _, i := range []int{0, 2} {
			b.End(id, i, batch.Succeeded)
		}
		begun := b.Begin(id, 1)
		require.NoError(t, b.note(id, begun, queuetest.Result(1, batch.Succeeded)))
		require.NoError(t, b.note(id, begun, queuetest.Result(3, batch.Succeeded)))
		require.Equal(t, batch.Pending, b.AllResults(id, 10)[1].Outcome, "nothing of a group shows before it ends")
		results := []batch.Result{{Outcome: batch.Succeeded}, {Outcome: batch.Succeeded}, *queuetest.Result(4, batch.Succeeded)}
		for range 2 {
			require.NoError(t, b.Ledger.FinishGroup(b.Ctx, id, begun.Token, begun.Group, results))
		}
		require.Equal(t, batch.Counts{Total: 6, Pending: 1, Succeeded: 5}, b.Read(id).Counts)
		again, err := b.Ledger.Begin(b.Ctx, id, 1, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, again.Verdict)
		require.ErrorIs(t, b.note(id, begun, nil), batch.ErrStale)

		last := b.Begin(id, 5)
		require.NoError(t, b.Ledger.FinishGroup(b.Ctx, id, last.Token, last.Group, []batch.Result{*queuetest.Result(5, batch.Skipped)}))
		got := b.Read(id)
		require.Equal(t, batch.StatusCompleted, got.Status)
		require.Equal(t, batch.Counts{Total: 6, Succeeded: 5, Skipped: 1}, got.Counts)
		all := b.AllResults(id, 10)
		for _, i := range []int{1, 3, 4} {
			require.Equal(t, batch.Succeeded, all[i].Outcome)
			require.Equal(t, "answer "+all[i].ID[2:], string(all[i].Body))
		}
		tasks, err := b.Inspector().ListPendingTasks(tasks.WebhookQueue)
		require.NoError(t, err)
		require.Len(t, tasks, 1)
	})
}

func TestAGroupThatFailsReplacesWhatWasNoted(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Grouped(queuetest.Spec())
		begun := b.Begin(id, 1)
		require.NoError(t, b.note(id, begun, queuetest.Result(1, batch.Succeeded)))
		results := []batch.Result{*queuetest.Result(1, batch.Skipped), *queuetest.Result(3, batch.Failed), *queuetest.Result(4, batch.Unknown)}
		require.NoError(t, b.Ledger.FinishGroup(b.Ctx, id, begun.Token, begun.Group, results))
		all := b.AllResults(id, 10)
		require.Equal(t, []batch.Outcome{batch.Skipped, batch.Failed, batch.Unknown}, []batch.Outcome{all[1].Outcome, all[3].Outcome, all[4].Outcome})
		require.Empty(t, all[1].Body)
		require.Equal(t, batch.Counts{Total: 6, Pending: 3, Skipped: 1, Failed: 1, Unknown: 1}, b.Read(id).Counts)
	})
}

func TestCancelEndsAGroupThatHasNotBegunAndNoOther(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		waiting, running := b.Grouped(queuetest.Spec()), b.Grouped(queuetest.Spec())
		b.Begin(running, 1)
		for _, id := range []string{waiting, running} {
			_, err := b.Cancel(b.Ctx, "me", id)
			require.NoError(t, err)
		}
		require.Equal(t, batch.Counts{Total: 6, Cancelled: 6}, b.Read(waiting).Counts)
		require.Equal(t, batch.CodeCancelled, b.AllResults(waiting, 10)[3].Error.Code)
		require.Equal(t, batch.Counts{Total: 6, Pending: 3, Cancelled: 3}, b.Read(running).Counts)
		begun := b.Begin(running, 1)
		require.NoError(t, b.Ledger.FinishGroup(b.Ctx, running, begun.Token, begun.Group,
			[]batch.Result{*queuetest.Result(1, batch.Succeeded), *queuetest.Result(3, batch.Succeeded), *queuetest.Result(4, batch.Succeeded)}))
		got := b.Read(running)
		require.Equal(t, batch.StatusCancelled, got.Status)
		require.Equal(t, batch.Counts{Total: 6, Succeeded: 3, Cancelled: 3}, got.Counts)
	})
}

func TestTheDeadlineEndsAGroupThatHasNotBegun(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Grouped(queuetest.Spec())
		running := b.Begin(id, 5)
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "expires", time.Now().Add(-time.Second).UnixMilli()).Err())
		begun, err := b.Ledger.Begin(b.Ctx, id, 1, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, begun.Verdict)
		require.Equal(t, batch.Counts{Total: 6, Pending: 1, Expired: 5}, b.Read(id).Counts)
		again := b.Begin(id, 5)
		require.ErrorIs(t, b.note(id, running, nil), batch.ErrStale, "a group that was begun is taken over after the deadline too")
		require.NoError(t, b.Ledger.FinishGroup(b.Ctx, id, again.Token, again.Group, []batch.Result{*queuetest.Result(5, batch.Succeeded)}))
		require.Equal(t, batch.StatusExpired, b.Read(id).Status)
	})
}

func TestTheKeysOfGroupsExpireAndAreErased(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Grouped(queuetest.Spec())
		begun := b.Begin(id, 1)
		require.NoError(t, b.note(id, begun, queuetest.Result(1, batch.Succeeded)))
		b.RequireTTLs(id, 6, 10*time.Hour) // meta, state, actions, groups, ledger, results
		_, err := b.Cancel(b.Ctx, "me", id)
		require.NoError(t, err)
		require.NoError(t, b.Delete(b.Ctx, "me", id))
		require.ErrorIs(t, b.note(id, begun, nil), batch.ErrNotFound)
		require.ErrorIs(t, b.Ledger.FinishGroup(b.Ctx, id, begun.Token, begun.Group, []batch.Result{*queuetest.Result(1, batch.Failed), *queuetest.Result(3, batch.Failed), *queuetest.Result(4, batch.Failed)}), batch.ErrNotFound)
		_, err = b.Ledger.Member(b.Ctx, id, 1)
		require.ErrorIs(t, err, batch.ErrNotFound)
		for key := range b.AllKeys() {
			require.NotContains(t, key, "batchd:{"+id, "late steps bring nothing back")
		}
	})
}
