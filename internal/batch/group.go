package batch

import (
	"context"
	"fmt"
	"time"
)

// MaxGroup is the most members that a group may have.
const MaxGroup = 100

// Group is the record of a transaction in the ledger: its members and its progress. The
// worker writes it before every request of the group. The worker that finds it after a
// crash therefore knows which requests may have been sent.
type Group struct {
	Name string `json:"name"`
	// Members are in the order of the batch, which is the order in which they run. The
	// first one is the leader: its task runs the group, and its token fences the group.
	Members []Member `json:"members"`
	// Seq counts the writes of this record. The ledger ignores a write that is not
	// newer than the stored record.
	Seq int64 `json:"seq,omitempty"`
	// Step is the next step, or the present one if Sent. Empty means that the group has
	// not begun.
	Step GroupStep `json:"step,omitempty"`
	// At is the position in Members that Step refers to.
	At int `json:"at,omitempty"`
	// Sent: the step's request may be in flight, because no answer was recorded.
	Sent bool `json:"sent,omitempty"`
	// Paused: the holder has given the group back, and the worker that begins it next
	// continues.
	Paused bool `json:"paused,omitempty"`
	// Attempt is the number of attempts at Step, including the present one.
	Attempt int `json:"attempt,omitempty"`
	// FirstAt is when the first attempt at Step began, and StartedAt when the last one
	// began.
	FirstAt   time.Time `json:"first_at,omitzero"`
	StartedAt time.Time `json:"started_at,omitzero"`
	// InDoubt: an attempt at Step was sent and got no response.
	InDoubt bool `json:"in_doubt,omitempty"`
	// Transaction is the target's id of the transaction. If it is empty, the group uses
	// undos instead.
	Transaction string `json:"transaction,omitempty"`
	// Cause is the reason why the group does not count. Nil means that nothing has
	// failed.
	Cause *GroupCause `json:"cause,omitempty"`
	// MayPersist lists the members whose effects may persist at the target although the
	// group failed.
	MayPersist []Leftover `json:"may_persist,omitempty"`
}

// Member is an action of a group.
type Member struct {
	Index int    `json:"index"`
	ID    string `json:"id"` // the result of [ActionID]
	// Attempts is the number of attempts at sending it, once it has ended. StartedAt
	// and Duration describe the last one.
	Attempts  int           `json:"attempts,omitempty"`
	StartedAt time.Time     `json:"started_at,omitzero"`
	Duration  time.Duration `json:"duration,omitempty"`
}

// GroupStep is one of the steps of a group. The set is closed.
type GroupStep string

// The steps, in their possible order.
const (
	GroupBegin    GroupStep = "begin"    // open a transaction at the target
	GroupMember   GroupStep = "member"   // send the member At
	GroupCommit   GroupStep = "commit"   // commit the transaction
	GroupRollback GroupStep = "rollback" // roll the transaction back
	GroupUndo     GroupStep = "undo"     // send the undo of the member At
	GroupEnd      GroupStep = "end"      // nothing more is sent
)

// GroupCause is the reason why a group does not count.
type GroupCause struct {
	// Step and At identify the failed request: At is a position in Members.
	Step GroupStep `json:"step"`
	At   int       `json:"at"`
	// Outcome, Status and Failure describe its last attempt.
	Outcome Outcome  `json:"outcome"`
	Status  int      `json:"status,omitempty"`
	Failure *Failure `json:"failure,omitempty"`
	// InDoubt: the request may still have taken effect at the target.
	InDoubt bool `json:"in_doubt,omitempty"`
	// LeftOpen: the target may hold a transaction that no worker ends.
	LeftOpen  bool          `json:"left_open,omitempty"`
	StartedAt time.Time     `json:"started_at,omitzero"`
	Duration  time.Duration `json:"duration,omitempty"`
}

// Leftover is a member whose effect may persist at the target, with the reason.
type Leftover struct {
	At     int    `json:"at"`
	Detail string `json:"detail"`
}

// Leader returns the index of the action that leads the group.
func (g *Group) Leader() int { return g.Members[0].Index }

// Leftover returns whether the effect of the member at a position in Members may persist,
// and the reason.
func (g *Group) Leftover(at int) (detail string, mayPersist bool) {
	for _, r := range g.MayPersist {
		if r.At == at {
			return r.Detail, true
		}
	}
	return "", false
}

// Reads reports whether a method changes nothing at the target (RFC 9110 §9.2.1), so
// that there is nothing to undo.
func Reads(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS":
		return true
	}
	return false
}

// GroupLedger is the part of the ledger with which a worker runs a group. [Ledger.Begin] of the
// group's first action begins all of its members in one step. It also takes the group over from an
// earlier holder that has paused it, is dead, or is the same worker; from then on that holder is
// stale. If the holder is alive, Begin answers [Held]. Begin of any other member answers [Waiting].
// Every method may answer an [UnavailableError], and [ErrNotFound] once the batch is erased; each is
// safe to repeat.
type GroupLedger interface {
	// Member returns an action of the batch.
	Member(ctx context.Context, id string, index int) (*Action, error)
	// SaveGroup writes the group's record and, with it, the result that a member will
	// have if the group succeeds; nil adds none. It returns the store's time. It
	// answers [ErrStale] for a token that is no longer the group's.
	SaveGroup(ctx context.Context, id string, token Token, g *Group, staged *Result) (time.Time, error)
	// FinishGroup ends all members in one step, with the results in the order of the
	// members. A result without an ID refers to the staged one; only its outcome is
	// read. The first write wins, as in [Ledger.Finish], and a quota may remove bodies from
	// results as there. That also holds for SaveGroup.
	FinishGroup(ctx context.Context, id string, token Token, g *Group, results []Result) error
}

// Groups checks the groups of a batch while its actions arrive.
type Groups struct {
	order  []string
	byName map[string]*groupCheck
}

type groupCheck struct {
	members, last int
	// undo and bare are the indexes of the first members with an undo, and of those
	// that lack an undo and would need one.
	undo, bare []int
}

// Add adds the next action, with its index.
func (g *Groups) Add(a *Action, index int) {
	if a.Group == "" {
		return
	}
	c := g.byName[a.Group]
	if c == nil {
		if g.byName == nil {
			g.byName = make(map[string]*groupCheck)
		}
		c = &groupCheck{}
		g.byName[a.Group] = c
		g.order = append(g.order, a.Group)
	}
	c.members++
	c.last = index
	if c.members > MaxGroup {
		return
	}
	switch {
	case a.Undo != nil:
		c.undo = append(c.undo, index)
	case !Reads(a.Method):
		c.bare = append(c.bare, index)
	}
}

// Faults returns the faults of a batch's groups for a target, with pointers relative to
// the actions ("/undo").
func (g *Groups) Faults(target string, transactions bool) []Fault {
	var faults []Fault
	for _, name := range g.order {
		c := g.byName[name]
		add := func(index int, pointer, format string, args ...any) {
			faults = append(faults, Fault{Index: index, Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
		}
		if c.members > MaxGroup {
			add(c.last, "/group", "the group %q has %d members: at most %d are allowed", clip(name), c.members, MaxGroup)
		}
		if transactions {
			for _, index := range c.undo {
				add(index, "/undo", "the target %q has transactions of its own: leave the undo out", target)
			}
			continue
		}
		for _, index := range c.bare {
			if index != c.last {
				add(index, "/undo", "the target %q has no transactions, so each member of group %q that changes something, except the last, needs an undo", target, clip(name))
			}
		}
	}
	return faults
}
