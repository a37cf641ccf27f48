package api

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/setting"
)

// Quotas bound what an owner may have, over all API processes. 0 is no bound. The zero value bounds nothing.
type Quotas struct {
	// Owner bounds each owner. Without authentication all clients are one owner. A key may have other numbers.
	// Defaults to those of [DefaultQuotas].
	Owner batch.Quotas `yaml:",inline"`
	// PerAddress bounds the clients of each address together in the mode passthrough, where a client can invent
	// credentials and so owners. An IPv6 client counts by its /64. Defaults to the same.
	PerAddress batch.Quotas `yaml:"per_address"`
}

// DefaultQuotas returns the quotas of a server whose configuration sets none. They leave most of a Redis with 1 GB to
// others.
func DefaultQuotas() Quotas {
	q := batch.Quotas{OpenBatches: 10_000, StoredBytes: 256 << 20, UploadRate: 32 << 20, UploadBurst: 512 << 20}
	return Quotas{Owner: q, PerAddress: q}
}

// Check reports the faults of the settings.
func (q Quotas) Check(c *setting.Checker) {
	CheckQuotas(c, q.Owner)
	CheckQuotas(c.In("per_address"), q.PerAddress)
}

// CheckQuotas reports the faults of quotas.
func CheckQuotas(c *setting.Checker, q batch.Quotas) {
	c.Int("open_batches", q.OpenBatches, 0, 100_000_000)
	c.Size("stored_bytes", q.StoredBytes, 0, 1<<50)
	c.Size("upload_rate", q.UploadRate, 0, 1<<40)
	c.Size("upload_burst", q.UploadBurst, 0, 1<<50)
	if q.UploadBurst > 0 { // below the rate it would bound nothing
		c.SizesInOrder("upload_rate", q.UploadRate, "upload_burst", q.UploadBurst)
	}
}

// accounts returns what a batch of the owner counts for. In the mode passthrough, the address comes first: clients
// with invented credentials do not reach the accounts of owners.
func (s *Server) accounts(c *gin.Context, owner string) ([]batch.Account, error) {
	p := principal(c)
	quotas, own := s.cfg.Quotas.Owner, false
	if !isForeign(c) { // those of an admin's own key do not count for a batch of another owner
		quotas, own = quotas.Override(p.Quotas), p.Quotas.StoredBytes != 0
	}
	var all []batch.Account
	if p.Mode == auth.ModePassthrough && s.cfg.Quotas.PerAddress.Bounded() {
		name, err := s.addressName(c)
		if err != nil {
			return nil, err
		}
		all = append(all, batch.Account{Kind: batch.AddressAccount, Name: name, Quotas: s.cfg.Quotas.PerAddress})
	}
	return append(all, batch.Account{Kind: batch.OwnerAccount, Name: owner, Quotas: quotas, Own: own}), nil
}

// network returns what counts as one client: the network of the peer. Clients behind a proxy have its address. What is
// no network, such as a Unix socket, is one client.
func network(r *http.Request) netip.Prefix {
	if conn := connOf(r.Context()); conn != nil {
		return conn.address
	}
	address, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	return networkOf(net.TCPAddrFromAddrPort(address))
}

// nameOfQuota names the quota of an error: the setting, or the quota of the caller's key that replaces it.
func nameOfQuota(e *batch.QuotaError, own batch.Quotas) string {
	name := e.Quota
	var ofKey bool
	switch {
	case e.Quota == batch.QuotaUploadRate && e.RetryAfter == 0: // the larger of the two
		name, ofKey = "upload_burst", own.UploadBurst == e.Value
		if !ofKey && own.UploadRate == e.Value {
			name, ofKey = batch.QuotaUploadRate, true
		}
	case e.Quota == batch.QuotaUploadRate:
		ofKey = own.UploadRate != 0
	case e.Quota == batch.QuotaStoredBytes:
		ofKey = own.StoredBytes != 0
	default:
		ofKey = own.OpenBatches != 0
	}
	switch {
	case e.Kind == batch.AddressAccount:
		return "the quota quotas.per_address." + name
	case ofKey:
		return "the quota " + name + " of your key"
	}
	return "the quota quotas." + name
}

// quotaProblem returns the problem for a refusal by a quota. Own are the quotas of the caller's key.
func quotaProblem(e *batch.QuotaError, own batch.Quotas, header http.Header) *problem {
	whose, quota := "your", nameOfQuota(e, own)
	if e.Kind == batch.AddressAccount {
		whose = "your address's"
	}
	var detail string
	never := e.RetryAfter == 0
	switch {
	case never && e.Quota != batch.QuotaOpenBatches:
		detail = fmt.Sprintf("the batch needs at least %s, and %s is %s: send it in several batches", readable(e.Needs), quota, readable(e.Value))
	case e.Quota == batch.QuotaOpenBatches:
		detail = fmt.Sprintf("%s open batches are %d, and %s is %d: wait until some have ended, or cancel some", whose, e.Used, quota, e.Value)
	case e.Quota == batch.QuotaStoredBytes:
		detail = fmt.Sprintf("%s batches store %s, this one needs at least %s more, and %s is %s: delete batches that have ended, or set a shorter retention",
			whose, readable(e.Used), readable(e.Needs), quota, readable(e.Value))
	default:
		detail = fmt.Sprintf("%s recent uploads still count with %s, this one adds at least %s, and %s takes off only %s a second: try again in %s",
			whose, readable(e.Used), readable(e.Needs), quota, readable(e.Value), setting.Duration(time.Duration(wholeSeconds(e.RetryAfter))*time.Second))
	}
	detail += "; nothing of it was stored"
	if never {
		return kindOverLimit.problem(detail)
	}
	setRetryAfter(header, e.RetryAfter)
	return kindQuota.problem(detail)
}

// readable formats a number of bytes for people.
func readable(n int64) string {
	for _, u := range []struct {
		name  string
		bytes int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.bytes {
			return fmt.Sprintf("%.4g %s", float64(n)/float64(u.bytes), u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// refusedByQuota counts an error if it is a refusal by a quota.
func (m *metrics) refusedByQuota(err error) {
	if e, ok := errors.AsType[*batch.QuotaError](err); ok {
		m.quotas.WithLabelValues(e.Quota, string(e.Kind)).Inc()
	}
}
