// Package api is batchd's HTTP API: it accepts batches, and answers with their state and results.
//
// The server reads a submission in the native format as a stream, and stages every action in the
// store as soon as it was read and found valid, so that a batch of any size costs the memory of one
// action. No part of a batch is visible before the whole body was read and found valid; a refused
// or broken submission leaves nothing behind. The server reports all faults of a submission at
// once, each with the index of its action and a JSON pointer (RFC 6901).
//
// An endpoint may use a dialect instead (package dialect), with its own form of answers and errors.
// The server holds such a request as a whole; the number of actions that the endpoint allows bounds
// its size.
//
// Every other error leaves as a problem document (RFC 9457). Only problem.go maps errors to HTTP
// statuses. An error without a mapping is a 500 that contains only the request's id, under which
// the log has the details.
//
// A request may take as long as its bytes keep moving. Timeouts for whole requests would cut
// uploads and streams, so each read and each write has its own deadline.
package api
