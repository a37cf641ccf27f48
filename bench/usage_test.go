package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestProcessorTimeOfAProcessIsRead(t *testing.T) {
	t.Parallel()
	// In the format of proc(5), with a name that contains separators.
	stat := "4711 (a) b (c) S 1 4711 4711 0 -1 4194560 100 200 3 4 150 25 7 9 20 0 8 0 1000 2000 300"
	used, err := parseCPU([]byte(stat))
	require.NoError(t, err)
	require.Equal(t, 1750*time.Millisecond, used, "150 ticks of the user's and 25 of the system's, without those of children")
	_, err = parseCPU([]byte("4711 (a) S 1"))
	require.Error(t, err)
}

func TestProcessorTimeOfTheMachineIsRead(t *testing.T) {
	t.Parallel()
	busy, err := parseBusy("cpu  100 20 30 9000 500 6 7 8 99 99\ncpu0 1 2 3\n")
	require.NoError(t, err)
	require.Equal(t, 1710*time.Millisecond, busy, "all but idle, iowait and what user already holds")
	_, err = parseBusy("intr 1 2 3")
	require.Error(t, err)
}

func TestPeakMemoryOfAProcessIsRead(t *testing.T) {
	t.Parallel()
	peak, err := parsePeak("Name:\tbatchd\nVmPeak:\t  900 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\n")
	require.NoError(t, err)
	require.Equal(t, int64(2<<20), peak)
	_, err = parsePeak("Name:\tbatchd\n")
	require.Error(t, err)
}
