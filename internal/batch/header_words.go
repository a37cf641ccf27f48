package batch

import "bytes"

// classOfWords returns the class of a folded name that no table has, by its words. Each
// proxy and each cloud has names of its own for the same: the client's address, its
// identity, and the request as it was before.
func classOfWords(folded []byte) headerClass {
	var changes, replaced bool // such as override, and such as url
	var last []byte
	for word := range bytes.SplitSeq(folded, []byte{'-'}) {
		switch string(word) {
		case "forwarded", "xff", "clientip", "userinfo", "remoteuser", "remoteaddr", "realip":
			return trustedHeader
		case "override", "original", "orig", "origin", "unencoded", "rewrite", "rewritten":
			changes = true
		case "url", "uri", "path", "host", "method", "verb", "dst", "destination":
			replaced = true
		case "ip", "ipv4", "ipv6", "addr", "address":
			switch string(last) {
			case "client", "connecting", "connection", "real", "forward", "remote", "source", "src", "true", "peer", "user", "origin", "originating", "viewer":
				return trustedHeader
			}
		case "user", "username", "userid", "email", "group", "groups", "subject":
			switch string(last) {
			case "remote", "authenticated", "impersonate", "forward":
				return trustedHeader
			}
		case "authorization":
			if string(last) == "ip" {
				return trustedHeader
			}
		case "assertion":
			if string(last) == "jwt" {
				return trustedHeader
			}
		case "name":
			if string(last) == "script" {
				return overrideHeader
			}
		}
		last = word
	}
	if changes && replaced || bytes.HasPrefix(folded, []byte("l5d-")) {
		return overrideHeader
	}
	return plainHeader
}
