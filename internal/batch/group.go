package batch

import (
	"context"
	"fmt"
	"time"
)

// MaxGroup is the most members that a group may have.
const MaxGroup = 100

// Group is a transaction as the ledger keeps it: who belongs to it, and how far
// it is. It is written before every request of the group, so that the worker that finds
// it after a crash knows what may have been sent.
type Group struct {
	Name string `json:"name"`
	// Members are in the order of the batch, which is the order in which they
	// run. The first one leads: its task runs the group, and its token fences it.
	Members []Member `json:"members"`
	// Seq counts the writes of this record. A write that is not newer than the
	// one that stands changes nothing.
	Seq int64 `json:"seq,omitempty"`
	// Step is what comes next, or is under way if Sent. Empty means that the
	// group has not begun.
	Step GroupStep `json:"step,omitempty"`
	// At is the position in Members that Step is about.
	At int `json:"at,omitempty"`
	// Sent says that the step's request may be on its way: no answer was noted.
	Sent bool `json:"sent,omitempty"`
	// Paused says that the holder has given the group back: the worker that begins it next
	// continues.
	Paused bool `json:"paused,omitempty"`
	// Attempt counts the tries at Step, the one under way included.
	Attempt int `json:"attempt,omitempty"`
	// FirstAt is when Step was first tried, StartedAt when it was last.
	FirstAt   time.Time `json:"first_at,omitzero"`
	StartedAt time.Time `json:"started_at,omitzero"`
	// InDoubt says that an attempt at Step was sent and got no response.
	InDoubt bool `json:"in_doubt,omitempty"`
	// Transaction is the target's id of it. Empty means that undos take its place.
	Transaction string `json:"transaction,omitempty"`
	// Cause says why the group does not count. Nil means that nothing has failed.
	Cause *GroupCause `json:"cause,omitempty"`
	// MayPersist lists the members whose effects may persist at the target although the
	// group failed.
	MayPersist []Leftover `json:"may_persist,omitempty"`
}

// Member is an action of a group.
type Member struct {
	Index int    `json:"index"`
	ID    string `json:"id"` // as [ActionID] returns it
	// Attempts counts the tries at sending it, once it has ended. StartedAt and
	// Duration are those of the last one.
	Attempts  int           `json:"attempts,omitempty"`
	StartedAt time.Time     `json:"started_at,omitzero"`
	Duration  time.Duration `json:"duration,omitempty"`
}

// GroupStep is one of the requests that a group is made of. The set is closed.
type GroupStep string

// The steps, in the order in which they can follow each other.
const (
	GroupBegin    GroupStep = "begin"    // open a transaction at the target
	GroupMember   GroupStep = "member"   // send the member At
	GroupCommit   GroupStep = "commit"   // make the transaction count
	GroupRollback GroupStep = "rollback" // take the transaction back
	GroupUndo     GroupStep = "undo"     // send the undo of the member At
	GroupEnd      GroupStep = "end"      // nothing more is sent
)

// GroupCause is what kept a group from counting.
type GroupCause struct {
	// Step and At say what failed: At is a position in Members.
	Step GroupStep `json:"step"`
	At   int       `json:"at"`
	// Outcome, Status and Failure are those of its last attempt.
	Outcome Outcome  `json:"outcome"`
	Status  int      `json:"status,omitempty"`
	Failure *Failure `json:"failure,omitempty"`
	// InDoubt says that the request may have taken effect at the target all the same.
	InDoubt bool `json:"in_doubt,omitempty"`
	// LeftOpen says that the target may hold a transaction that no worker ends.
	LeftOpen  bool          `json:"left_open,omitempty"`
	StartedAt time.Time     `json:"started_at,omitzero"`
	Duration  time.Duration `json:"duration,omitempty"`
}

// Leftover is a member whose effect may persist at the target, and why.
type Leftover struct {
	At     int    `json:"at"`
	Detail string `json:"detail"`
}

// Leader returns the index of the action that leads the group.
func (g *Group) Leader() int { return g.Members[0].Index }

// Leftover returns whether the effect of the member at a position in Members may persist,
// and why.
func (g *Group) Leftover(at int) (detail string, mayPersist bool) {
	for _, r := range g.MayPersist {
		if r.At == at {
			return r.Detail, true
		}
	}
	return "", false
}

// Reads reports whether a method changes nothing at the target (RFC 9110
// §9.2.1), so that there is nothing to undo.
func Reads(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS":
		return true
	}
	return false
}

// GroupLedger is what a worker asks of the store to run a group. [Ledger.Begin]
// of the group's first action begins all of its members in one step, or takes
// the group over from an earlier holder that has paused it, is dead or is the
// same worker, and which from then on is stale. Where the holder is alive it answers [Held]. Begin of
// any other member answers [Waiting]. Every method may answer an
// [UnavailableError], and [ErrNotFound] once the batch is erased; each bears repetition.
type GroupLedger interface {
	// Member returns an action of the batch.
	Member(ctx context.Context, id string, index int) (*Action, error)
	// SaveGroup writes the group's record and, with it, the result that a member will
	// have if the group succeeds; nil adds none. It returns the store's time.
	// A token that is no longer the group's gets [ErrStale].
	SaveGroup(ctx context.Context, id string, token Token, g *Group, staged *Result) (time.Time, error)
	// FinishGroup ends all members in one step, with the results in the order of
	// the members. A result without an ID stands for the one that was staged; only its
	// outcome is read. The first write wins, as in [Ledger.Finish].
	FinishGroup(ctx context.Context, id string, token Token, g *Group, results []Result) error
}

// Groups checks the groups of a batch as its actions come.
type Groups struct {
	order  []string
	byName map[string]*groupCheck
}

type groupCheck struct {
	members, last int
	// undo and bare are the first members with an undo, and those without one
	// that would need it.
	undo, bare []int
}

// Add takes the next action, of that index.
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

// Faults returns what is wrong with the groups of a batch for a target, with
// pointers relative to the actions ("/undo").
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
