// Package intake reads the actions in documents of clients. It collects every fault
// with the index of its action and a JSON pointer (RFC 6901), so that one answer can
// list all of them. Only text that is not JSON ends reading.
//
// It is strict if two readers of the same text could differ: a repeated name, a name in
// another case, and an unknown name are faults.
package intake
