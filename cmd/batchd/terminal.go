package main

import (
	"io"
	"os"

	"golang.org/x/term"
)

// terminalWidth returns the columns of the terminal that w writes to, or 0 if it
// writes to none.
func terminalWidth(w io.Writer) int {
	file, ok := unwrapped(w).(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0
	}
	if width == 0 {
		return 80 // the size is unknown, as in some emulators and CI systems
	}
	return width
}
