package api

import (
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

// policiesOf returns the targets' settings for refusals, by name. Targets with the same
// settings share one value.
func policiesOf(names []string, configured []batch.Target) map[string]*batch.Target {
	policies := make(map[string]*batch.Target, len(names))
	var distinct []*batch.Target
	add := func(name string, t *batch.Target) {
		for _, known := range distinct {
			if batch.SameRefusals(known, t) {
				policies[name] = known
				return
			}
		}
		distinct = append(distinct, t)
		policies[name] = t
	}
	for _, name := range names {
		add(name, &batch.Target{})
	}
	for i := range configured {
		add(configured[i].Name, &configured[i])
	}
	return policies
}

// refusals collects the faults for which targets refuse the actions of a submission. The
// target may be named after the actions. Until then, each target's faults are kept apart.
type refusals struct {
	// byPolicy is nil while the target is known.
	byPolicy map[*batch.Target]*batch.InvalidError
}

// check adds the faults of an action whose own pointer is base.
func (r *refusals) check(d *decoder, a *draft, base string) {
	if target := d.knownTarget(); target != "" {
		if policy, ok := d.policies[target]; ok { // an unknown target is a fault of its own
			d.CheckTarget(policy, a.Action, base, a.place)
		}
		return
	}
	if r.byPolicy == nil {
		r.byPolicy = make(map[*batch.Target]*batch.InvalidError)
		for _, policy := range d.policies {
			r.byPolicy[policy] = &batch.InvalidError{}
		}
	}
	for policy, invalid := range r.byPolicy {
		for _, f := range policy.Refusals(a.Action) {
			if len(invalid.Faults) == intake.MaxFaults {
				invalid.More++
				continue
			}
			f.Index, f.Pointer = d.Index, intake.ClipPointer(base+a.place(f.Pointer))
			invalid.Faults = append(invalid.Faults, f)
		}
	}
}

// report adds the faults of the target that was named after the actions.
func (r *refusals) report(d *decoder) {
	invalid := r.byPolicy[d.policies[d.spec.Target]]
	if invalid == nil {
		return
	}
	for _, f := range invalid.Faults {
		d.Index = f.Index
		d.Fault(f.Pointer, "%s", f.Detail)
	}
	d.Index = -1
	d.Invalid.More += invalid.More
}

// knownTarget returns the target of the submission, or "" if that depends on what has not
// been read yet.
func (d *decoder) knownTarget() string {
	switch {
	case d.fixed != "":
		return d.fixed
	case d.targeted:
		return d.spec.Target
	case len(d.targets) == 1:
		return d.targets[0]
	}
	return ""
}
