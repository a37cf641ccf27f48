package dialect

import (
	"net/http"

	"github.com/batchd/batchd/internal/batch"
)

// answered reports whether a result is an answer of the target.
func answered(r *batch.Result) bool {
	return r.Outcome == batch.Succeeded || r.Outcome == batch.Failed
}

// statusOf returns the HTTP status for a result, in a format that has no other field
// for the outcome.
func statusOf(r *batch.Result) int {
	switch r.Outcome {
	case batch.Succeeded, batch.Failed:
		return r.Status
	case batch.Pending, batch.Cancelled, batch.Expired:
		return http.StatusGatewayTimeout
	case batch.Skipped:
		return http.StatusFailedDependency
	case batch.Unknown:
		return http.StatusBadGateway
	case batch.Errored:
	}
	if r.Error == nil {
		return http.StatusBadGateway
	}
	switch r.Error.Code {
	case batch.CodeTimeout, batch.CodeCancelled, batch.CodeExpired:
		return http.StatusGatewayTimeout
	case batch.CodeDNS, batch.CodeRefused, batch.CodeTLS, batch.CodeReset, batch.CodeProtocol, batch.CodeInterrupted:
		return http.StatusBadGateway
	case batch.CodeBlocked:
		return http.StatusBadRequest
	case batch.CodeDependencyFailed:
		return http.StatusFailedDependency
	case batch.CodeLimited:
		return http.StatusTooManyRequests
	case batch.CodeInternal:
	}
	return http.StatusInternalServerError
}

// reasonOf explains why a result is no answer. If the outcome is unknown, the text
// includes when the action was sent.
func reasonOf(r *batch.Result) string {
	if at := sentAt(r); at != "" {
		return causeOf(r) + " (sent at " + at + ")"
	}
	return causeOf(r)
}

// sentAt returns when an action was sent whose outcome is unknown, and "" for any other
// outcome.
func sentAt(r *batch.Result) string {
	if r.Outcome != batch.Unknown || r.StartedAt.IsZero() {
		return ""
	}
	return r.StartedAt.UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

func causeOf(r *batch.Result) string {
	if r.Error != nil && r.Error.Message != "" {
		return r.Error.Message
	}
	switch r.Outcome {
	case batch.Pending:
		return "not done yet: the batch goes on, and the Location header of this answer names it"
	case batch.Cancelled:
		return "not sent: the batch was cancelled"
	case batch.Expired:
		return "not sent: the deadline of the batch passed"
	case batch.Skipped:
		return "it does not count: something that it depended on did not succeed"
	case batch.Unknown:
		return "sent, but its answer was not seen, so whether it took effect is not known"
	case batch.Errored, batch.Succeeded, batch.Failed:
	}
	return "there is no answer"
}

// problemOf returns a result without an answer as a problem document.
func problemOf(r *batch.Result) *Problem {
	p := &Problem{Status: statusOf(r), Detail: causeOf(r), Code: r.Outcome.String(), SentAt: sentAt(r)}
	p.Title = http.StatusText(p.Status)
	if r.Error != nil {
		p.Code = string(r.Error.Code)
	}
	return p
}
