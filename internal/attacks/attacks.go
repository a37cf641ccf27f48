// Package attacks reads tables of inputs with which an attacker tries something: testdata/attacks/*.txt
// beside the code that decides about them. Only tests import it.
//
// Each row has a decision, the input as a Go string, and the reason, with tabs between. Rows that begin
// with # are comments.
package attacks

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// Case is a row of a table.
type Case struct {
	// Want is the expected decision: "accept" or "refuse", unless the table says otherwise.
	Want string
	// Input is what the attacker sends.
	Input string
	// Why is the reason for the decision.
	Why string
}

// Read returns the rows of a table. It fails for a row that cannot be read, has no reason, or is there twice.
func Read(tb testing.TB, file string) []Case {
	tb.Helper()
	text, err := os.ReadFile(file) //nolint:gosec // the test names the file
	if err != nil {
		tb.Fatal(err)
	}
	var all []Case
	seen := map[string]bool{}
	for i, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		parts := strings.Split(line, "\t")
		if len(parts) != 3 || parts[0] == "" || parts[2] == "" {
			tb.Fatalf("%s:%d: expected a decision, an input and a reason, with tabs between", file, i+1)
		}
		input, err := strconv.Unquote(parts[1])
		if err != nil {
			tb.Fatalf("%s:%d: the input is not a Go string: %v", file, i+1, err)
		}
		if seen[input] {
			tb.Fatalf("%s:%d: the input is there twice", file, i+1)
		}
		seen[input] = true
		all = append(all, Case{parts[0], input, parts[2]})
	}
	return all
}
