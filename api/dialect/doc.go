// Package dialect implements the batch formats of other APIs: it decodes their requests
// into actions, and encodes results and errors as their clients expect them. It does no
// I/O.
//
// A dialect is one type in one file, a line in [All], and its golden files in testdata;
// see docs/DIALECTS.md.
package dialect
