package auth

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	stdjson "encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
)

// claims are the claims of a token. No name is in them twice.
type claims map[string]any

// tokenTypes are the types of tokens that count, in lower case and without "application/". Others, such as
// logout tokens, are signed by the same keys but mean something else (RFC 8725 §3.11).
var tokenTypes = []string{"", "jwt", "at+jwt"}

// readToken reads the claims of a token, without its signature.
func readToken(token string) (claims, error) {
	if len(token) > mostTokenBytes {
		return nil, badToken("it has more than %d bytes", mostTokenBytes)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, badToken("it is not a JWT in its compact form")
	}
	var header struct {
		Type      string `json:"typ"`
		Algorithm string `json:"alg"`
	}
	if decodePart(parts[0], &header) != nil {
		return nil, badToken("its header cannot be read")
	}
	if !slices.ContainsFunc(algorithms, func(a jose.SignatureAlgorithm) bool { return string(a) == header.Algorithm }) {
		return nil, errSignature
	}
	if !slices.Contains(tokenTypes, strings.TrimPrefix(strings.ToLower(header.Type), "application/")) {
		return nil, badToken("its type is neither JWT nor at+jwt")
	}
	var got claims
	if decodePart(parts[1], &got) != nil || got == nil {
		return nil, badToken("its claims cannot be read: they are not an object in JSON without duplicate names")
	}
	return got, nil
}

// decodePart decodes a part of a token: strict base64, and JSON without duplicate names, in UTF-8.
func decodePart(part string, into any) error {
	plain, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(plain, into)
}

// check checks the registered claims.
func (c claims) check(issuer, audience string, now time.Time) error {
	if iss, _ := c["iss"].(string); iss != issuer {
		return badToken("its issuer is not the one of this server")
	}
	switch aud := c["aud"].(type) {
	case string:
		if aud != audience {
			return badToken("it is for another audience")
		}
	case []any:
		if !slices.Contains(aud, any(audience)) {
			return badToken("it is for another audience")
		}
	default:
		return badToken("it has no audience")
	}
	for _, name := range []string{"exp", "nbf", "iat"} {
		if value, there := c[name]; there {
			if n, ok := value.(float64); !ok || math.IsNaN(n) || n < 0 || n > 1<<40 {
				return badToken("its claim %s is not a time", name)
			}
		}
	}
	switch {
	case c["exp"] == nil:
		return badToken("it does not expire")
	case !now.Before(c.time("exp")):
		return badToken("it has expired")
	case c["nbf"] != nil && c.time("nbf").After(now.Add(clockSkew)):
		return badToken("it is not valid yet")
	case c["iat"] != nil && c.time("iat").After(now.Add(clockSkew)):
		return badToken("it was issued in the future")
	}
	return nil
}

// time returns a claim that check found to be a time.
func (c claims) time(name string) time.Time {
	n, _ := c[name].(float64)
	return time.Unix(int64(n), 0)
}

// get returns a claim by its name or, with a / in front, by a JSON pointer (RFC 6901).
func (c claims) get(name string) any {
	rest, isPointer := strings.CutPrefix(name, "/")
	if value, there := c[name]; there || !isPointer {
		return value
	}
	var value any = map[string]any(c)
	for token := range strings.SplitSeq(rest, "/") {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(token)]
	}
	return value
}

// mostOwnerBytes bounds a claim that is an owner, and mostTexts the texts in a claim.
const (
	mostOwnerBytes = 200
	mostTexts      = 1000
)

// owner returns the claim that is the owner.
func (c claims) owner(name string) (string, error) {
	text, ok := c.get(name).(string)
	switch {
	case !ok:
		return "", badToken("its claim %s, which names the owner, is missing or no text", name)
	case text == "" || strings.TrimSpace(text) != text || len(text) > mostOwnerBytes || !utf8.ValidString(text):
		return "", badToken("its claim %s cannot be an owner: expected 1 to %d bytes without blanks around them", name, mostOwnerBytes)
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 }):
		return "", badToken("its claim %s cannot be an owner: it has a line break or another control character", name)
	}
	// Also by a pointer, such as /email, or in a namespace, such as https://example.com/email: the other claim is beside it.
	if at := strings.LastIndexByte(name, '/') + 1; name[at:] == "email" {
		if verified, _ := c.get(name + "_verified").(bool); !verified {
			return "", badToken("its claim %s is not verified: %s_verified is not true", name, name)
		}
	}
	return text, nil
}

// texts returns a claim that is a list of texts, or one text with blanks between its items.
func (c claims) texts(name string) ([]string, error) {
	wrong := badToken("its claim %s is neither a text nor a list of texts", name)
	switch value := c.get(name).(type) {
	case nil:
		return nil, nil
	case string:
		return strings.Fields(value), nil
	case []any:
		if len(value) > mostTexts {
			return nil, badToken("its claim %s has more than %d texts", name, mostTexts)
		}
		texts := make([]string, len(value))
		for i, one := range value {
			text, ok := one.(string)
			if !ok {
				return nil, wrong
			}
			texts[i] = text
		}
		return texts, nil
	}
	return nil, wrong
}

// JWTOwner returns the owner of the batches of tokens with that owner in their claim. No other issuer and no other
// mode has it.
func JWTOwner(issuer, name string) string {
	sum := sha256.Sum256([]byte(issuer))
	return "jwt:" + hex.EncodeToString(sum[:6]) + ":" + escapeOwner(name)
}

// escapeOwner escapes all but letters, digits and a few marks, because an owner is a part of keys in Redis and of
// log lines. Different texts stay different.
func escapeOwner(name string) string {
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("._-@+|", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// claimsIssuer reports whether a text is a token with an issuer in its unverified claims. It is generous: a token that
// resembles one of the issuer must not be taken for a credential of a target.
func claimsIssuer(token, issuer string) bool {
	parts := strings.Split(token, ".")
	if len(parts) < 3 {
		return false
	}
	text := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(parts[1], "="))
	plain, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return false
	}
	alike := func(text string) bool {
		return strings.EqualFold(strings.TrimRight(strings.TrimSpace(text), "/"), strings.TrimRight(issuer, "/"))
	}
	dec := stdjson.NewDecoder(bytes.NewReader(plain))
	if begin, err := dec.Token(); err != nil || begin != stdjson.Delim('{') {
		return bytes.Contains(plain, []byte(issuer))
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return bytes.Contains(plain, []byte(issuer))
		}
		var value any
		if err := dec.Decode(&value); err != nil {
			return bytes.Contains(plain, []byte(issuer))
		}
		if key, ok := name.(string); ok && strings.EqualFold(strings.TrimSpace(key), "iss") {
			if iss, ok := value.(string); ok && alike(iss) {
				return true
			}
		}
	}
	return false
}
