package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
)

const (
	keyOwner  = "owner"
	keyOwners = "owners"
)

// owner returns the owner of the batch that a request is about.
func owner(c *gin.Context) string { return c.GetString(keyOwner) }

// entrance is a path and a target of batches. In the mode passthrough, owners are bound to it: the same
// credential may be another client's at another target.
type entrance struct {
	path, target string
	// dialect is the format of the endpoint, or nil.
	dialect dialect.Dialect
}

// entranceOf returns the entrance of an endpoint or, without one, of /batch with a target.
func entranceOf(ep *Endpoint, target string) entrance {
	if ep == nil {
		return entrance{"/batch", target, nil}
	}
	e := entrance{path: strings.TrimSuffix(ep.Path, "/"), target: ep.Target}
	if def, foreign := dialect.Named(string(ep.Dialect)); foreign {
		e.dialect = def.Dialect
	}
	return e
}

// credentials returns the credentials of a request that count at the entrance, or none.
func (e entrance) credentials(h http.Header, query url.Values) (dialect.Credentials, error) {
	if e.dialect == nil {
		return dialect.Authorization(h)
	}
	c, _, err := e.dialect.Authenticate(&dialect.Request{Header: h, Query: query, Known: true})
	return c, err
}

// entrances lists all entrances.
func (s *Server) entrances() []entrance {
	var all []entrance
	for _, target := range s.cfg.Targets {
		all = append(all, entranceOf(nil, target))
	}
	for i := range s.cfg.Endpoints {
		all = append(all, entranceOf(&s.cfg.Endpoints[i], ""))
	}
	return all
}

// ownerBy returns the owner with a credential at the entrance.
func (s *Server) ownerBy(ctx context.Context, e entrance, credentials dialect.Credentials) (string, error) {
	// Neither a path nor a target has a line break. The credential, which may have any character, is last.
	return s.cfg.Owner(ctx, e.path+"\n"+e.target+"\n"+credentials.Identity())
}

// ownerAt returns the owner of a batch that the principal submits at an entrance, or "" if the request has no
// credential.
func (s *Server) ownerAt(c *gin.Context, e entrance, query url.Values) (string, error) {
	p := principal(c)
	if p.Mode != auth.ModePassthrough {
		return p.Owner, nil
	}
	credentials, err := e.credentials(c.Request.Header, query)
	if err != nil || credentials.Identity() == "" {
		return "", err
	}
	return s.ownerBy(c.Request.Context(), e, credentials)
}

// identify determines the owners whose batches the request may be about. In the mode passthrough, a request
// can have the credentials of several entrances: the headers that submitted a batch read it, in every dialect.
// It removes the token from the query.
func (s *Server) identify(c *gin.Context) error {
	c.Header(headerStore, s.storeName())
	p := principal(c)
	if p.Mode != auth.ModePassthrough {
		c.Set(keyOwner, p.Owner)
		c.Set(keyOwners, []string{p.Owner})
		return nil
	}
	query, err := parseQuery(c.Request.URL.RawQuery)
	if err != nil {
		return err
	}
	var owners []string
	for _, e := range s.entrances() {
		owner, err := s.ownerAt(c, e, query)
		if err != nil {
			return err
		}
		if owner != "" {
			owners = append(owners, owner)
		}
	}
	if len(owners) == 0 {
		return s.noCredential(c, auth.Any)
	}
	if query.Has("token") {
		query.Del("token")
		c.Request.URL.RawQuery = query.Encode()
	}
	c.Set(keyOwner, owners[0]) // whose connections and waits count
	c.Set(keyOwners, owners)
	return nil
}

// own determines the owner of a batch that came in a dialect.
func (s *Server) own(c *gin.Context, ep *Endpoint, credentials dialect.Credentials) error {
	owner := principal(c).Owner
	if principal(c).Mode == auth.ModePassthrough {
		if credentials.Identity() == "" {
			return s.noCredential(c, auth.Submit)
		}
		var err error
		if owner, err = s.ownerBy(c.Request.Context(), entranceOf(ep, ""), credentials); err != nil {
			return err
		}
	}
	c.Set(keyOwner, owner)
	return s.claimConnection(c)
}

// locate determines whose batch the request is about. For an admin that may be any owner's. If the request has one
// owner only, the store compares it, and a batch of others costs the same as none.
func (s *Server) locate(c *gin.Context) error {
	id, err := batchID(c)
	if err != nil {
		return err
	}
	owners := s.reach(c)
	if !owners.All && len(owners.Names) == 1 {
		return nil
	}
	found, err := s.cfg.Store.OwnerOf(c.Request.Context(), owners, id)
	if err != nil {
		return err
	}
	c.Set(keyOwner, found)
	return nil
}

// reach returns the owners whose batches the request may be about: its own or, for an admin, all.
func (s *Server) reach(c *gin.Context) batch.Owners {
	if isAdmin(c) {
		return batch.OfAll()
	}
	return batch.OwnedBy(c.GetStringSlice(keyOwners)...)
}

// isAdmin reports whether the batches of all owners are within the reach of the request.
func isAdmin(c *gin.Context) bool { return principal(c).Scopes.Has(auth.Admin) }

// isForeign reports whether an admin's request is about a batch of another owner. [owner] has the batch's owner
// then, and [principal] the admin.
func isForeign(c *gin.Context) bool {
	return isAdmin(c) && owner(c) != principal(c).Owner
}

// payer returns for whom the waits, streams and memory of a request count: its owner. Those of an admin count for the
// admin, not for the owner of the batch. While the owner is not known, because the credential is in the body, they
// count for the client's address: clients without a credential would otherwise share one owner with all others.
func payer(c *gin.Context) string {
	switch {
	case isForeign(c):
		return principal(c).Owner
	case owner(c) == "":
		return addressOwner(c)
	}
	return owner(c)
}

// addressOwner returns the name under which the client's address counts like an owner in this process.
func addressOwner(c *gin.Context) string { return "address\n" + network(c.Request).String() }

// addressName returns the name under which the client's address counts like an owner in Redis, which gets no address
// in clear. The name of an entrance's owner begins with a path, so no owner has the name of an address.
func (s *Server) addressName(c *gin.Context) (string, error) {
	return s.cfg.Owner(c.Request.Context(), addressOwner(c))
}

// errLateTarget refuses a submission whose owner is not known before its first action is stored.
var errLateTarget = errors.New("name the target before the actions: the batch belongs to its credential at this target")

// submitter returns a function that determines the owner of a native submission, when its first action is
// stored. By then the submission must have named its target.
func (s *Server) submitter(c *gin.Context, ep *Endpoint, target func() string) func() (string, error) {
	return func() (string, error) {
		if p := principal(c); p.Mode != auth.ModePassthrough {
			c.Set(keyOwner, p.Owner)
			return p.Owner, nil
		}
		named := target()
		if named == "" {
			return "", &batch.InvalidError{Faults: []batch.Fault{{Index: -1, Pointer: "/target", Detail: errLateTarget.Error()}}}
		}
		owner, err := s.ownerAt(c, entranceOf(ep, named), nil)
		if err == nil && owner == "" {
			err = s.noCredential(c, auth.Submit)
		}
		if err != nil {
			return "", err
		}
		c.Set(keyOwner, owner)
		credentials, err := entranceOf(ep, named).credentials(c.Request.Header, nil)
		if err != nil {
			return "", err
		}
		return owner, s.verify(c, named, credentials)
	}
}
