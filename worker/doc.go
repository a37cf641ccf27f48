// Package worker runs actions. It takes them from asynq, asks the ledger what
// may still happen to each, has a dispatcher make the exchange with the target,
// and decides whether another attempt follows. It also delivers webhooks and,
// one worker at a time, sweeps up what a crash left half-way.
//
// Nothing is sent before the ledger has it marked as begun, and a result counts
// only while the ledger says that the action is still this worker's. So a task
// that asynq hands out twice, late, or to a worker that was long believed dead
// does no harm.
//
// A group of actions is run by the task of its first one, from a record that the
// ledger keeps; see saga.
package worker
