package queue_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
)

func TestNothingOfASecretStandsInRedis(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const secret = "hush-hush-4711"
		u, err := b.Open(b.Ctx, "me", secret+"-key")
		require.NoError(t, err)
		a := queuetest.Action(0)
		a.Headers = append(a.Headers, batch.Field{Name: "Authorization", Value: "Bearer " + secret})
		a.Body, a.Query, a.Path = []byte(secret), "token="+secret, "/"+secret
		require.NoError(t, u.Add(b.Ctx, a))
		s := queuetest.Spec()
		s.WebhookURL, s.Metadata = "https://example.com/"+secret, map[string]string{secret: secret}
		got, _, err := u.Commit(b.Ctx, s)
		require.NoError(t, err)
		begun := b.Begin(got.ID, 0)
		r := queuetest.Result(0, batch.Succeeded)
		r.Body = []byte(secret)
		require.NoError(t, b.Ledger.Finish(b.Ctx, got.ID, 0, begun.Token, r))
		require.NoError(t, b.Batches.Deliveries.Record(b.Ctx, got.ID, 1, batch.Delivery{Error: secret}, batch.DeliveryFailed, time.Time{}))
		owner, err := b.Owner(b.Ctx, secret)
		require.NoError(t, err)
		require.Len(t, owner, 32)

		require.Contains(t, string(b.AllResults(got.ID, 1)[0].Body), secret, "and yet it can be read")
		seen := 0
		for key := range b.AllKeys() {
			text := key
			switch kind := b.DB.Client.Type(b.Ctx, key).Val(); kind {
			case "string":
				text += b.DB.Client.Get(b.Ctx, key).Val()
			case "hash":
				for f, v := range b.DB.Client.HGetAll(b.Ctx, key).Val() {
					text += f + v
				}
			case "list":
				text += strings.Join(b.DB.Client.LRange(b.Ctx, key, 0, -1).Val(), "")
			case "zset":
				text += strings.Join(b.DB.Client.ZRange(b.Ctx, key, 0, -1).Val(), "")
			case "set":
				text += strings.Join(b.DB.Client.SMembers(b.Ctx, key).Val(), "")
			default:
				t.Fatalf("unknown kind %s of %s", kind, key)
			}
			require.NotContains(t, text, secret, key)
			seen++
		}
		require.Greater(t, seen, 8)
	})
}
