// Package intake reads what foreign clients write into actions. Every fault is
// collected with the index of its action and a JSON pointer (RFC 6901), so that
// one answer can name all of them; only text that is no JSON at all ends reading.
//
// It is strict where two readers of the same text could differ: a name that is
// there twice, a name in another case, and an unknown name are faults.
package intake
