// Package worker runs actions. Package consumer takes their tasks and hands them to a worker, which asks the
// ledger whether to send them, makes the exchange with the target through a dispatcher, and
// decides whether another attempt follows. It also delivers webhooks. One worker at a
// time sweeps: it repairs the inconsistencies that a crash left behind.
//
// The worker sends no action before the ledger has recorded its begin, and a result
// counts only while the ledger considers the action this worker's. So it does no harm
// if a task comes twice or late, or goes to a worker that was considered dead.
//
// The task of a group's first action runs the whole group, from a record in the ledger;
// see saga.
package worker
