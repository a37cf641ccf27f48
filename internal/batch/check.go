package batch

// CheckState is the state of a [Check].
type CheckState string

// The states of a check.
const (
	CheckOK      CheckState = "ok"
	CheckWarning CheckState = "warning" // it works, but an operator should know
	CheckFailed  CheckState = "failed"
)

// Check is a fact about a process or its store that decides whether it can serve, for those who operate it.
type Check struct {
	Name   string     `json:"name"`
	State  CheckState `json:"state"`
	Detail string     `json:"detail,omitempty"`
}

// Readiness is whether a process would serve a request, and the checks behind that.
type Readiness struct {
	// Status is ready, unavailable or stopping.
	Status string  `json:"status"`
	Checks []Check `json:"checks"`
}
