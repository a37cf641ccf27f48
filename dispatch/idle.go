//go:build unix

package dispatch

import (
	"container/list"
	"time"
)

// idleConns are the idle connections of a plainCarrier, by key. If there are too many, the
// connection that has to go is one of the key that was used least recently.
type idleConns struct {
	most  int
	total int
	byKey map[string]*list.Element // of *keyConns
	keys  *list.List               // those that were used last at the front; each has a connection
}

// keyConns are the idle connections with one key, those that were used last at the end.
type keyConns struct {
	key   string
	conns []*plainConn
}

func newIdleConns(most int) idleConns {
	return idleConns{most: most, byKey: make(map[string]*list.Element), keys: list.New()}
}

// take removes and returns the connection with that key that was used last, or nil.
func (i *idleConns) take(key string) *plainConn {
	e := i.byKey[key]
	if e == nil {
		return nil
	}
	k, _ := e.Value.(*keyConns)
	c := k.conns[len(k.conns)-1]
	i.keys.MoveToFront(e)
	i.remove(e, len(k.conns)-1)
	return c
}

// put adds a connection, and returns the one that has to go, or nil.
func (i *idleConns) put(c *plainConn) *plainConn {
	e := i.byKey[c.key]
	if e == nil {
		e = i.keys.PushFront(&keyConns{key: c.key})
		i.byKey[c.key] = e
	}
	i.keys.MoveToFront(e)
	k, _ := e.Value.(*keyConns)
	k.conns = append(k.conns, c)
	if i.total++; i.total <= i.most {
		return nil
	}
	last := i.keys.Back()
	k, _ = last.Value.(*keyConns)
	surplus := k.conns[0]
	i.remove(last, 0)
	return surplus
}

// remove removes a connection by its position.
func (i *idleConns) remove(e *list.Element, at int) {
	k, _ := e.Value.(*keyConns)
	copy(k.conns[at:], k.conns[at+1:])
	k.conns[len(k.conns)-1] = nil
	k.conns = k.conns[:len(k.conns)-1]
	i.total--
	if len(k.conns) == 0 {
		i.keys.Remove(e)
		delete(i.byKey, k.key)
	}
}

// expire removes and returns the connections that have been idle since that time or longer. It
// also returns since when the oldest remaining one is idle, or zero.
func (i *idleConns) expire(since time.Time) (old []*plainConn, next time.Time) {
	for e := i.keys.Front(); e != nil; {
		k, _ := e.Value.(*keyConns)
		following := e.Next()
		for len(k.conns) > 0 && !k.conns[0].since.After(since) {
			old = append(old, k.conns[0])
			i.remove(e, 0)
		}
		if len(k.conns) > 0 && (next.IsZero() || k.conns[0].since.Before(next)) {
			next = k.conns[0].since
		}
		e = following
	}
	return old, next
}

// clear removes and returns all connections.
func (i *idleConns) clear() (all []*plainConn) {
	for e := i.keys.Front(); e != nil; e = e.Next() {
		k, _ := e.Value.(*keyConns)
		all = append(all, k.conns...)
	}
	*i = newIdleConns(i.most)
	return all
}
