package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// restoreChunk is the most attempts that one step restores.
	restoreChunk = 100
	// restoreTogether is the most attempts in one exchange, and restoreBytes the size of their
	// results from which on no more attempts are added to an exchange.
	restoreTogether = 2000
	restoreBytes    = 4 << 20
)

// batchPart has attempts of one batch, which one step restores.
type batchPart struct {
	id       string
	attempts []*attempt
	step     *redis.Cmd
	answer   []string // nil until Redis has replied
}

// exchangesOf divides attempts into parts of one batch each, and the parts into exchanges.
func exchangesOf(all []*attempt) (exchanges [][]*batchPart) {
	open := make(map[string]*batchPart) // by batch, in the current exchange
	var parts []*batchPart
	n, size := 0, 0
	for _, a := range all {
		if n == restoreTogether || size >= restoreBytes {
			exchanges = append(exchanges, parts)
			parts, n, size = nil, 0, 0
			clear(open)
		}
		p := open[a.id]
		if p == nil || len(p.attempts) == restoreChunk {
			p = &batchPart{id: a.id}
			open[a.id] = p
			parts = append(parts, p)
		}
		p.attempts = append(p.attempts, a)
		n, size = n+1, size+len(a.result)
	}
	if len(parts) > 0 {
		exchanges = append(exchanges, parts)
	}
	return exchanges
}

// args returns the arguments of the step.
func (p *batchPart) args() []any {
	args := []any{p.id, keys.DoneChannel}
	for _, a := range p.attempts {
		state := a.state
		if a.group != nil {
			state = stateRunning
		}
		args = append(args, a.index, a.entry.String(), state, a.result)
	}
	return args
}

// verdict returns the step's verdict on the attempt at a position.
func (p *batchPart) verdict(i int) string { return p.answer[3+i] }

// restored returns the number of attempts that Redis had forgotten.
func (p *batchPart) restored() (n int) {
	for i := range p.attempts {
		if v := p.verdict(i); v == "restored" || v == "ended" {
			n++
		}
	}
	return n
}

// restoreParts runs the steps of parts, and sets the answers of those that succeeded. It returns the
// errors of the others.
func (r *Restorer) restoreParts(ctx context.Context, parts []*batchPart) error {
	ids := make([]string, len(parts))
	for i, p := range parts {
		ids[i] = p.id
	}
	// Redis may have forgotten the batches' entries in the open batches, too. The sweeper needs such
	// an entry before the step changes the batch, since it completes the work that a crash interrupts.
	if err := r.batches.Index.ReopenMany(ctx, ids); err != nil {
		return fmt.Errorf("restore actions: %w", err)
	}
	for left := parts; len(left) > 0; {
		left = r.sendParts(ctx, left)
	}
	var faults []error
	for _, p := range parts {
		answer, err := p.step.StringSlice()
		if err == nil && len(answer) != 3+len(p.attempts) {
			err = rdb.ErrAnswer
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("restore actions of batch %s: %w", p.id, rdb.MapError(ctx, err)))
			continue
		}
		p.answer = answer
	}
	return errors.Join(faults...)
}

// sendParts sends the steps of parts in one exchange. A server that has restarted knows no step: it
// gets the text of the step with the first part, and sendParts returns the others, to send again.
// On a cluster they may belong to other servers, so each call makes the step known to one server.
func (r *Restorer) sendParts(ctx context.Context, parts []*batchPart) (again []*batchPart) {
	ctx, cancel := r.db.WithTimeout(ctx)
	defer cancel()
	pipe := r.db.Client.Pipeline()
	for _, p := range parts {
		p.step = pipe.EvalSha(ctx, Steps.Restore.Hash(), keys.KeysOf(p.id).Step(), p.args()...)
	}
	r.db.Send(ctx, pipe)
	for _, p := range parts {
		if redis.HasErrorPrefix(p.step.Err(), "NOSCRIPT") {
			again = append(again, p)
		}
	}
	if len(again) == 0 {
		return nil
	}
	again[0].step = r.db.AnswerOf(ctx, Steps.Restore, again[0].step)
	return again[1:]
}

// completeParts does what follows the steps of parts: it makes the tasks of actions that wait again,
// ends groups, and enqueues webhooks. After an error, it continues, unless Redis is unavailable.
func (r *Restorer) completeParts(ctx context.Context, parts []*batchPart) error {
	var faults []error
	var waiting []tasks.Task
	enqueue := func() {
		if len(waiting) == 0 {
			return
		}
		if err := r.tasks.EnqueueTasks(ctx, waiting); err != nil {
			faults = append(faults, fmt.Errorf("restore the tasks of actions: %w", err))
		}
		waiting = waiting[:0]
	}
	for _, p := range parts {
		waiting = append(waiting, r.waitingTasks(p)...)
		if len(waiting) >= restoreTogether {
			enqueue()
		}
	}
	enqueue()
	for _, p := range parts {
		if err := errors.Join(faults...); rdb.IsUnavailable(err) {
			return err
		}
		if err := r.finishGroups(ctx, p); err != nil {
			faults = append(faults, fmt.Errorf("restore actions of batch %s: %w", p.id, err))
		}
		r.batches.Outbox.EnqueueIf(ctx, p.id, p.answer[0])
	}
	return errors.Join(faults...)
}

// waitingTasks returns the tasks of a part's actions that wait again.
func (r *Restorer) waitingTasks(p *batchPart) (waiting []tasks.Task) {
	to := tasks.Route{Target: p.answer[1], Lane: batch.Lane(p.answer[2])}
	for i, a := range p.attempts {
		if a.state != stateWaiting {
			continue
		}
		switch p.verdict(i) {
		case "restored":
			// A dead worker may hold the action's task, or the task is gone. With the token,
			// the new task has an id of its own.
			waiting = append(waiting, r.tasks.TokenTask(to, p.id, a.index, a.entry.Token))
		case "known":
			// An earlier restore may have failed before it made the task. A task that exists
			// does not change, so the next attempt comes no sooner.
			waiting = append(waiting, r.tasks.TasksOf(p.id, to, a.entry.Round, []int{a.index})...)
		}
	}
	return waiting
}

// finishGroups ends the groups of a part that this process had ended.
func (r *Restorer) finishGroups(ctx context.Context, p *batchPart) error {
	for i, a := range p.attempts {
		if v := p.verdict(i); a.group == nil || v != "restored" && v != "known" {
			continue
		}
		if err := r.groups.finish(ctx, p.id, a.index, a.entry.Token, "1", a.group); err != nil && !conclusive(err) {
			return err
		}
	}
	return nil
}
