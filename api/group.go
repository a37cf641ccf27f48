package api

import (
	"slices"
	"strconv"
	"strings"

	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
)

// checkGroups adds the faults of groups, which are known only after the whole batch was
// read. Actions is the pointer of the list of actions, or empty if each action is a
// document of its own.
func (d *decoder) checkGroups(actions string) {
	before := slices.Clone(d.Invalid.Faults)
	for _, f := range d.groups.Faults(d.spec.Target, slices.Contains(d.transactional, d.spec.Target)) {
		pointer := f.Pointer
		if actions != "" {
			pointer = actions + "/" + strconv.Itoa(f.Index) + f.Pointer
		}
		if slices.ContainsFunc(before, func(g batch.Fault) bool {
			return g.Index == f.Index && (g.Pointer == pointer || strings.HasPrefix(g.Pointer, pointer+"/"))
		}) {
			continue // an unreadable field is not also a missing one
		}
		d.Index = f.Index
		d.Fault(pointer, "%s", f.Detail)
	}
	d.Index = -1
}

// checkForeignGroups refuses transactions in a dialect if the target has none, because
// actions in a dialect have no undos.
func (s *Server) checkForeignGroups(target string, actions []batch.Action) error {
	var groups batch.Groups
	for i := range actions {
		groups.Add(&actions[i], i)
	}
	faults := groups.Faults(target, slices.Contains(s.cfg.Transactional, target))
	if len(faults) == 0 {
		return nil
	}
	invalid := &dialect.InvalidError{Items: len(actions)}
	for _, f := range faults {
		if f.Pointer == "/undo" {
			f.Detail = "the target " + strconv.Quote(target) + " has no transactions, so what was done could not be taken back: leave the transaction out"
		}
		f.Pointer = "/" + strconv.Itoa(f.Index) + "/transaction"
		invalid.Faults = append(invalid.Faults, f)
	}
	return invalid
}
