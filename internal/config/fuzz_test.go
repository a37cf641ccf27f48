package config

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzNoFilePanicsOrIsFaultedOutsideOfIt(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.yaml", "testdata/good/*.yaml"} {
		seeds, err := filepath.Glob(pattern)
		require.NoError(f, err)
		for _, seed := range seeds {
			source, err := os.ReadFile(seed)
			require.NoError(f, err)
			f.Add(source)
		}
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		if len(source) > 4<<10 {
			return // a longer text is slower, but not different
		}
		// All of Load except opening files, because the input would name them.
		l := newLoader()
		l.places[""] = place{file: "batchd.yaml"}
		if l.readSource(source) {
			l.validate()
		}
		if len(l.faults) == 0 {
			require.NotEmpty(t, l.cfg.Targets)
			require.NotEmpty(t, l.cfg.Summary())
			return
		}
		lines := 1 + bytes.Count(source, []byte("\n")) + bytes.Count(source, []byte("\r"))
		for _, fault := range l.faults {
			require.Equal(t, "batchd.yaml", fault.File)
			require.NotEmpty(t, fault.Detail)
			require.LessOrEqual(t, fault.Line, lines)
		}
		require.Error(t, l.err())
	})
}
