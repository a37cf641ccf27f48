package batch

import (
	"fmt"
	"time"
)

// Quotas bound what an account may have. A zero field is no bound.
type Quotas struct {
	// OpenBatches is the most batches that have not ended.
	OpenBatches int `yaml:"open_batches" json:"open_batches,omitzero"`
	// StoredBytes is the most bytes that batches may hold in the store, with their results, from their
	// submission until they are deleted or their retention is over. An action counts with what the store
	// needs beside its content. While a batch runs, bytes that are reserved for its results count, too. Beyond the
	// quota results are stored without their bodies.
	StoredBytes int64 `yaml:"stored_bytes" json:"stored_bytes,omitzero"`
	// UploadRate is the most bytes a second that submissions may store, on average.
	UploadRate int64 `yaml:"upload_rate" json:"upload_rate,omitzero"`
	// UploadBurst is the most bytes that submissions may store at once after a pause, at least UploadRate. Zero
	// means UploadRate.
	UploadBurst int64 `yaml:"upload_burst" json:"upload_burst,omitzero"`
}

// Override returns the quotas with those of another that are not zero.
func (q Quotas) Override(by Quotas) Quotas {
	if by.OpenBatches != 0 {
		q.OpenBatches = by.OpenBatches
	}
	if by.StoredBytes != 0 {
		q.StoredBytes = by.StoredBytes
	}
	if by.UploadRate != 0 {
		q.UploadRate = by.UploadRate
	}
	if by.UploadBurst != 0 {
		q.UploadBurst = by.UploadBurst
	}
	return q
}

// Bounded reports whether there is a quota.
func (q Quotas) Bounded() bool { return q.OpenBatches > 0 || q.StoredBytes > 0 || q.UploadRate > 0 }

// Burst returns the most bytes at once: UploadBurst or, if it is zero, UploadRate.
func (q Quotas) Burst() int64 { return max(q.UploadBurst, q.UploadRate) }

// AccountKind is a kind of account.
type AccountKind string

// The kinds of accounts.
const (
	// OwnerAccount is the account of an owner.
	OwnerAccount AccountKind = "owner"
	// AddressAccount is the account of the clients with one network address.
	AddressAccount AccountKind = "address"
)

// Account is what a batch counts for.
type Account struct {
	Kind AccountKind
	// Name is the name of the owner, or of the address.
	Name   string
	Quotas Quotas
	// Own: Quotas.StoredBytes is that of the owner's key, which differs from the configured one.
	Own bool
}

// QuotaError means that a submission or a retry would exceed a quota. Nothing of it was stored.
type QuotaError struct {
	// Kind is the kind of the account.
	Kind AccountKind
	// Quota is the name of the quota, as in the settings.
	Quota string
	// Value is the quota, and Used the present use. Both are bytes, except for open batches.
	Value, Used int64
	// Needs is what the submission needs, as far as it was read.
	Needs int64
	// RetryAfter is when to try again. Zero means never: the submission is larger than the quota.
	RetryAfter time.Duration
}

// The names of the quotas.
const (
	QuotaOpenBatches = "open_batches"
	QuotaStoredBytes = "stored_bytes"
	QuotaUploadRate  = "upload_rate"
)

// Error implements error.
func (e *QuotaError) Error() string {
	return fmt.Sprintf("quota %s of the %s: %d needed, %d of %d used", e.Quota, e.Kind, e.Needs, e.Used, e.Value)
}
