package seal

// kinds are the kinds of sealed values, each one letter. [Sealer.Seal] accepts no other: package reseal has to know
// where the values of each kind are, so that a rotation forgets none.
//
//	of a batch: a actions, g records of groups, h heads, m private parts, o last attempts, r results, w logs of deliveries
//	others, each with its [Place]: k batchd's own keys, s the salt
const kinds = "aghmorwks"

// Kinds returns the kinds of sealed values.
func Kinds() []string {
	all := make([]string, len(kinds))
	for i := range kinds {
		all[i] = kinds[i : i+1]
	}
	return all
}

var isKind = func() (known [256]bool) {
	for i := range kinds {
		known[kinds[i]] = true
	}
	return known
}()

// check panics if the kind of a label is not one of [Kinds].
func (l *Label) check() {
	if len(l.Kind) != 1 || !isKind[l.Kind[0]] {
		panic("seal: the kind " + l.Kind + " is not registered in seal.Kinds, so a rotation would forget its values")
	}
}

// Place says where sealed values are that belong to no batch.
type Place struct {
	// Kind is the kind of the values' labels.
	Kind string
	// Key is the key in Redis. With a "*" in it, it stands for all keys that match it as a pattern.
	Key string
	// Fields is the beginning of the fields with the values, if the keys are hashes. Otherwise they are strings.
	Fields string
	// Label returns the label of the value of a key, and of a field without its beginning.
	Label func(key, field string) Label
	// Name names a value for messages.
	Name func(key, field string) string
}
