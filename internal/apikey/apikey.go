// Package apikey has the text form of batchd's own keys: a prefix by which people and scanners recognise a
// key, 256 random bits, and a checksum that finds a typing error without a look into the store.
package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash/crc32"
	"math/big"
	"strings"
)

// Prefix begins every key.
const Prefix = "batchd_"

const (
	digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	// secretLen and sumLen are the digits of 256 and of 32 bits.
	secretLen = 43
	sumLen    = 6
	// Len is the length of a key.
	Len = len(Prefix) + secretLen + sumLen
)

// New returns a new key.
func New() string {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails: crypto/rand ends the program instead
	body := encode(new(big.Int).SetBytes(secret[:]), secretLen)
	return Prefix + body + checksum(body)
}

func encode(n *big.Int, width int) string {
	out := make([]byte, width)
	base, rest := big.NewInt(int64(len(digits))), new(big.Int)
	for i := width - 1; i >= 0; i-- {
		n.DivMod(n, base, rest)
		out[i] = digits[rest.Int64()]
	}
	return string(out)
}

func checksum(body string) string {
	return encode(big.NewInt(int64(crc32.ChecksumIEEE([]byte(body)))), sumLen)
}

// Valid reports whether a text has the form of a key, with its checksum.
func Valid(text string) bool {
	if len(text) != Len || !strings.HasPrefix(text, Prefix) {
		return false
	}
	body := text[len(Prefix) : len(Prefix)+secretLen]
	return checksum(body) == text[len(Prefix)+secretLen:]
}

// Hash returns the hash by which a key is stored. A key has 256 random bits, so it needs neither a salt nor a
// slow hash.
func Hash(key string) [sha256.Size]byte { return sha256.Sum256([]byte(key)) }

// HexHash returns the hash in the form in which it is stored.
func HexHash(key string) string {
	sum := Hash(key)
	return hex.EncodeToString(sum[:])
}
