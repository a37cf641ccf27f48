// Package api is batchd's HTTP API: it accepts batches, and answers what became
// of them.
//
// A submission in the native format is read as a stream, and every action is staged in the store as
// soon as it was read and found good, so that a batch of any size costs the
// memory of one action. Nothing of it can be seen before the whole body was read
// to its end and found valid; a refused or broken submission leaves nothing
// behind. All faults of a submission are reported at once, each with the index
// of its action and a JSON pointer (RFC 6901).
//
// An endpoint may speak a dialect instead (package dialect), with answers and
// errors of its own shape. Such a request is held as a whole; its size is bounded
// by how many actions the endpoint allows.
//
// Every other error leaves as a problem document (RFC 9457), and problem.go is the
// only place where an error becomes an HTTP status. An error that has no place
// there is a 500 that says nothing but the request's id, under which the log has
// the rest.
//
// A request may take as long as its bytes keep moving: instead of timeouts for
// whole requests, which would cut uploads and streams, each read and each write
// has a deadline of its own.
package api
