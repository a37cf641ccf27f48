package queue

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// grouped commits a batch of which the actions 1, 3 and 4 are a group, and 5
// another of its own.
func (b *bundle) grouped(s *batch.Spec) string {
	b.t.Helper()
	u, err := b.Open(b.ctx, "me", "")
	require.NoError(b.t, err)
	for i := range 6 {
		a := action(i)
		switch i {
		case 1, 3, 4:
			a.Group, a.Undo = "g", &batch.Action{Method: "DELETE", Path: "/x"}
		case 5:
			a.Group = "h"
		}
		require.NoError(b.t, u.Add(b.ctx, a))
	}
	got, _, err := u.Commit(b.ctx, s)
	require.NoError(b.t, err)
	return got.ID
}

func (b *bundle) note(id string, begun *batch.Begun, staged *batch.Result) error {
	b.t.Helper()
	begun.Group.Seq++
	now, err := b.Note(b.ctx, id, begun.Token, begun.Group, staged)
	if err == nil {
		require.WithinDuration(b.t, time.Now(), now, time.Minute)
	}
	return err
}

func TestAGroupIsBegunByItsFirstActionAlone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.grouped(spec())
		for _, index := range []int{3, 4} {
			begun, err := b.Begin(b.ctx, id, index, "w1")
			require.NoError(t, err)
			require.Equal(t, batch.Waiting, begun.Verdict)
		}
		require.Nil(t, b.begin(id, 0).Group)
		begun := b.begin(id, 1)
		require.Equal(t, &batch.Group{Name: "g", Members: []batch.Member{{Index: 1, ID: "a-1"}, {Index: 3, ID: "a-3"}, {Index: 4, ID: "a-4"}}}, begun.Group)
		require.Len(t, b.begin(id, 5).Group.Members, 1)
		begun, err := b.Begin(b.ctx, id, 3, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Waiting, begun.Verdict, "also once the group has begun")
		member, err := b.Member(b.ctx, id, 4)
		require.NoError(t, err)
		require.Equal(t, "/items/4", member.Path)
		require.Equal(t, "/x", member.Undo.Path)
		require.Equal(t, batch.Counts{Total: 6, Pending: 6}, b.get(id).Counts)
	})
}

func TestAGroupIsTakenOverFromItsRecord(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.grouped(spec())
		first := b.begin(id, 1)
		first.Group.Step, first.Group.Sent, first.Group.Transaction = batch.GroupMember, true, "secret-tx"
		for range 2 { // its answer is lost, and it is repeated
			_, err := b.Note(b.ctx, id, first.Token, first.Group, nil)
			require.NoError(t, err)
		}
		require.NoError(t, b.note(id, first, result(1, batch.Succeeded)))

		second := b.begin(id, 1)
		require.NotEqual(t, first.Token, second.Token)
		require.Equal(t, 2, second.Attempt)
		require.Equal(t, first.Group, second.Group)
		require.ErrorIs(t, b.note(id, first, nil), batch.ErrStale)
		failed := []batch.Result{*result(1, batch.Failed), *result(3, batch.Failed), *result(4, batch.Failed)}
		require.ErrorIs(t, b.Conclude(b.ctx, id, first.Token, first.Group, failed), batch.ErrStale)
		third := b.begin(id, 1)
		require.Equal(t, second.Group, third.Group, "a stale write changes nothing")

		third.Group.At = 2
		require.NoError(t, b.note(id, third, nil))
		old := *third.Group
		old.Seq, old.At = 0, 0
		_, err := b.Note(b.ctx, id, third.Token, &old, nil)
		require.NoError(t, err)
		require.Equal(t, 2, b.begin(id, 1).Group.At, "a late repetition does not take the record back")
		for key := range b.allKeys() {
			require.NotContains(t, key, "secret-tx")
		}
		stored, err := b.db.Client.HGet(b.ctx, keysOf(id).groups, "1").Result()
		require.NoError(t, err)
		require.NotContains(t, stored, "secret-tx")
		require.True(t, strings.HasPrefix(stored, "1,3,4|"))
	})
}

func TestAGroupIsNotTakenFromAWorkerThatIsAlive(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.grouped(spec())
		first := b.begin(id, 1)
		_, err := b.Beat(b.ctx, "w1")
		require.NoError(t, err)
		other, err := b.Begin(b.ctx, id, 1, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Held, other.Verdict)
		require.NoError(t, b.note(id, first, nil), "it is still the first one's")

		first.Group.Paused = true
		require.NoError(t, b.note(id, first, nil))
		other, err = b.Begin(b.ctx, id, 1, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Run, other.Verdict, "given back")
		require.ErrorIs(t, b.note(id, first, nil), batch.ErrStale)

		_, err = b.Beat(b.ctx, "w2")
		require.NoError(t, err)
		again, err := b.Begin(b.ctx, id, 1, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Run, again.Verdict, "nobody waits for oneself")
		require.NoError(t, b.Leave(b.ctx, "w2"))
		require.Equal(t, batch.Run, b.begin(id, 1).Verdict)
	})
}

func TestAGroupEndsInOneStep(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		s := spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.grouped(s)
		for _, i := range []int{0, 2} {
			b.end(id, i, batch.Succeeded)
		}
		begun := b.begin(id, 1)
		require.NoError(t, b.note(id, begun, result(1, batch.Succeeded)))
		require.NoError(t, b.note(id, begun, result(3, batch.Succeeded)))
		require.Equal(t, batch.Pending, b.results(id, 10)[1].Outcome, "nothing of a group shows before it ends")
		results := []batch.Result{{Outcome: batch.Succeeded}, {Outcome: batch.Succeeded}, *result(4, batch.Succeeded)}
		for range 2 {
			require.NoError(t, b.Conclude(b.ctx, id, begun.Token, begun.Group, results))
		}
		require.Equal(t, batch.Counts{Total: 6, Pending: 1, Succeeded: 5}, b.get(id).Counts)
		again, err := b.Begin(b.ctx, id, 1, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, again.Verdict)
		require.ErrorIs(t, b.note(id, begun, nil), batch.ErrStale)

		last := b.begin(id, 5)
		require.NoError(t, b.Conclude(b.ctx, id, last.Token, last.Group, []batch.Result{*result(5, batch.Skipped)}))
		got := b.get(id)
		require.Equal(t, batch.StatusCompleted, got.Status)
		require.Equal(t, batch.Counts{Total: 6, Succeeded: 5, Skipped: 1}, got.Counts)
		all := b.results(id, 10)
		for _, i := range []int{1, 3, 4} {
			require.Equal(t, batch.Succeeded, all[i].Outcome)
			require.Equal(t, "answer "+all[i].ID[2:], string(all[i].Body))
		}
		tasks, err := b.inspector().ListPendingTasks(WebhookQueue)
		require.NoError(t, err)
		require.Len(t, tasks, 1)
	})
}

func TestAGroupThatFailsReplacesWhatWasNoted(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.grouped(spec())
		begun := b.begin(id, 1)
		require.NoError(t, b.note(id, begun, result(1, batch.Succeeded)))
		results := []batch.Result{*result(1, batch.Skipped), *result(3, batch.Failed), *result(4, batch.Unknown)}
		require.NoError(t, b.Conclude(b.ctx, id, begun.Token, begun.Group, results))
		all := b.results(id, 10)
		require.Equal(t, []batch.Outcome{batch.Skipped, batch.Failed, batch.Unknown}, []batch.Outcome{all[1].Outcome, all[3].Outcome, all[4].Outcome})
		require.Empty(t, all[1].Body)
		require.Equal(t, batch.Counts{Total: 6, Pending: 3, Skipped: 1, Failed: 1, Unknown: 1}, b.get(id).Counts)
	})
}

func TestCancelEndsAGroupThatHasNotBegunAndNoOther(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		waiting, running := b.grouped(spec()), b.grouped(spec())
		b.begin(running, 1)
		for _, id := range []string{waiting, running} {
			_, err := b.Cancel(b.ctx, "me", id)
			require.NoError(t, err)
		}
		require.Equal(t, batch.Counts{Total: 6, Cancelled: 6}, b.get(waiting).Counts)
		require.Equal(t, batch.CodeCancelled, b.results(waiting, 10)[3].Error.Code)
		require.Equal(t, batch.Counts{Total: 6, Pending: 3, Cancelled: 3}, b.get(running).Counts)
		begun := b.begin(running, 1)
		require.NoError(t, b.Conclude(b.ctx, running, begun.Token, begun.Group,
			[]batch.Result{*result(1, batch.Succeeded), *result(3, batch.Succeeded), *result(4, batch.Succeeded)}))
		got := b.get(running)
		require.Equal(t, batch.StatusCancelled, got.Status)
		require.Equal(t, batch.Counts{Total: 6, Succeeded: 3, Cancelled: 3}, got.Counts)
	})
}

func TestTheDeadlineEndsAGroupThatHasNotBegun(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.grouped(spec())
		running := b.begin(id, 5)
		require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(id).meta, "expires", time.Now().Add(-time.Second).UnixMilli()).Err())
		begun, err := b.Begin(b.ctx, id, 1, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, begun.Verdict)
		require.Equal(t, batch.Counts{Total: 6, Pending: 1, Expired: 5}, b.get(id).Counts)
		again := b.begin(id, 5)
		require.ErrorIs(t, b.note(id, running, nil), batch.ErrStale, "a group that was begun is taken over after the deadline too")
		require.NoError(t, b.Conclude(b.ctx, id, again.Token, again.Group, []batch.Result{*result(5, batch.Succeeded)}))
		require.Equal(t, batch.StatusExpired, b.get(id).Status)
	})
}

func TestTheKeysOfGroupsExpireAndAreErased(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.grouped(spec())
		begun := b.begin(id, 1)
		require.NoError(t, b.note(id, begun, result(1, batch.Succeeded)))
		requireTTLs(b, id, 6, 10*time.Hour) // meta, state, actions, groups, ledger, results
		_, err := b.Cancel(b.ctx, "me", id)
		require.NoError(t, err)
		require.NoError(t, b.Delete(b.ctx, "me", id))
		require.ErrorIs(t, b.note(id, begun, nil), batch.ErrNotFound)
		require.ErrorIs(t, b.Conclude(b.ctx, id, begun.Token, begun.Group, []batch.Result{*result(1, batch.Failed), *result(3, batch.Failed), *result(4, batch.Failed)}), batch.ErrNotFound)
		_, err = b.Member(b.ctx, id, 1)
		require.ErrorIs(t, err, batch.ErrNotFound)
		for key := range b.allKeys() {
			require.NotContains(t, key, "batchd:{"+id, "late steps bring nothing back")
		}

		u, err := b.Open(b.ctx, "me", "")
		require.NoError(t, err)
		a := action(0)
		a.Group = "g"
		require.NoError(t, u.Add(b.ctx, a))
		require.NoError(t, u.(*upload).stageGroups(b.ctx))
		require.NoError(t, u.(*upload).flush(b.ctx))
		require.NoError(t, u.(*upload).settle(t.Context()))
		u.Abort(b.ctx)
		for key := range b.allKeys() {
			require.NotContains(t, key, u.(*upload).id, "a broken upload leaves nothing")
		}
	})
}
