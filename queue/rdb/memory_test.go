package rdb

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemoryOfAServer(t *testing.T) {
	t.Parallel()
	info := "# Memory\r\nused_memory:%d\r\nused_memory_rss:99\r\nmaxmemory:%d\r\nmaxmemory_human:1K\r\n"
	require.Equal(t, Memory{256, 1024}, readMemory(fmt.Sprintf(info, 256, 1024)))
	require.Equal(t, Memory{256, 0}, readMemory(fmt.Sprintf(info, 256, 0)))
	require.Zero(t, readMemory(""))
}
