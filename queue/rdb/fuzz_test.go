package rdb

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/setting"
)

// FuzzURL connects to any URL that passes the check. Nothing that is said about a URL repeats its password.
func FuzzURL(f *testing.F) {
	for _, seed := range []string{"redis://:%s@h:1/0", "rediss://u:%s@h", "redis+sentinel://u:%s@a,b:1/0?master=m", "redis+cluster://:%s@a:1,b:2?addr=c:3", "redis://h/?password=%s", "%s", "redis://:%s@h:x", "redis://[::1]:1/%s", "redis+sentinel://h?master=m&sentinel_password=%s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, form string) {
		const secret = "0s3cret0"
		raw := strings.ReplaceAll(form, "%s", secret)
		said := ""
		var faults setting.Faults
		cfg := Config{URL: URL(raw)}
		cfg.Check(setting.NewChecker(&faults))
		if err := faults.Err(); err != nil {
			said += err.Error()
		} else if raw != Embedded {
			client, err := Connect(cfg.address(), time.Second, nil, nil)
			if err != nil {
				said += err.Error()
			} else {
				require.NoError(t, client.Close())
			}
		}
		// A host, a path and a scheme may be shown.
		if i := strings.Index(form, "@"); i >= 0 && strings.Index(form, "%s") < i && strings.Index(form, "%s") > strings.Index(form, "://")+2 && strings.Contains(form, "://") {
			require.NotContains(t, said+cfg.URL.String(), secret, form)
		}
	})
}

func FuzzInfo(f *testing.F) {
	f.Add("# Memory\r\nused_memory:1\r\nmaxmemory:2\r\n")
	f.Add("used_memory:-1")
	f.Add("maxmemory:99999999999999999999\r\n")
	f.Fuzz(func(t *testing.T, info string) {
		m := readMemory(info)
		require.Equal(t, m, readMemory(info+"\r\nother:1"))
	})
}
