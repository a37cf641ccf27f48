package batch

import "slices"

// Owners selects batches by their owner. The zero value selects none.
type Owners struct {
	// All selects every batch.
	All bool
	// Names are the owners whose batches it selects, unless All is set.
	Names []string
}

// OwnedBy selects the batches of some owners.
func OwnedBy(names ...string) Owners { return Owners{Names: names} }

// OfAll selects the batches of all owners.
func OfAll() Owners { return Owners{All: true} }

// Has reports whether the batches of an owner are selected.
func (o Owners) Has(owner string) bool { return o.All || slices.Contains(o.Names, owner) }
