package api

import (
	"errors"
	"html"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/intake"
)

// mostSignIn bounds the body of a sign-in.
const mostSignIn = 4 << 10

// canSignIn refuses a request if the server has no sessions, if a page of another site made it, and if the cookie would cross a
// network in clear.
func (s *Server) canSignIn(c *gin.Context) error {
	c.Header("Cache-Control", "no-store")
	if s.sessions == nil {
		return refuse(kindNotFound, "this server has no sessions: they need one of the modes keys and jwt in auth.modes")
	}
	if err := s.guardRequest(c.Request); err != nil {
		return err
	}
	if !s.sessions.Usable(c.Request) {
		return refuse(kindForbidden, "a session needs TLS, because its cookie would cross the network in clear: set server.tls or, behind a proxy that speaks TLS, auth.sessions.url")
	}
	return nil
}

// signIn starts a session by a key.
func (s *Server) signIn(c *gin.Context) error {
	if err := s.canSignIn(c); err != nil {
		return err
	}
	if _, err := parameters(c); err != nil {
		return err
	}
	if !s.cfg.Auth.Has(auth.ModeKeys) {
		return refuse(kindNotFound, "this server has no sign-in by a key: auth.modes has no keys")
	}
	// A form of another site cannot have this type.
	if media, _, err := mime.ParseMediaType(c.GetHeader("Content-Type")); err != nil || media != mediaJSON {
		return refuse(kindUnsupportedMedia, "the Content-Type %q is not supported: send application/json", intake.Clip(c.GetHeader("Content-Type")))
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, mostSignIn))
	if errors.As(err, new(*http.MaxBytesError)) {
		return refuse(kindTooLarge, "the body has more than %d bytes", mostSignIn)
	}
	if err != nil {
		return refuse(kindBadBody, "the body cannot be read")
	}
	var given struct {
		Key string `json:"key"`
	}
	if err := json.Unmarshal(body, &given, json.RejectUnknownMembers(true)); err != nil || given.Key == "" {
		return refuse(kindBadBody, `the body is not a sign-in: expected {"key": "batchd_…"}`)
	}
	ctx, cancel := settled(c.Request.Context())
	defer cancel()
	in, err := s.sessions.SignInByKey(ctx, given.Key)
	if err != nil {
		return err
	}
	if err := s.enter(c, in); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

// enter ends the session that a request had, and gives it the new one.
func (s *Server) enter(c *gin.Context, in *auth.SignIn) error {
	ctx, cancel := settled(c.Request.Context())
	defer cancel()
	if _, err := s.sessions.End(ctx, c.Request); err != nil && !errors.As(err, new(*dialect.UnauthorizedError)) {
		return err
	}
	http.SetCookie(c.Writer, s.sessions.Cookie(c.Request, in.Cookie))
	c.Set(keyPrincipal, in.Principal) // for the audit log
	return nil
}

// showSession answers with the caller, if a cookie authenticates the request.
func (s *Server) showSession(c *gin.Context) error {
	if principal(c).Session == nil {
		return refuse(kindNotFound, "the request has no session, but another credential: ask /whoami")
	}
	return s.whoami(c)
}

// signOut ends the session of a request.
func (s *Server) signOut(c *gin.Context) error {
	if err := s.canSignIn(c); err != nil {
		return err
	}
	if _, err := parameters(c); err != nil {
		return err
	}
	ctx, cancel := settled(c.Request.Context())
	defer cancel()
	p, err := s.sessions.End(ctx, c.Request)
	if err != nil && !errors.As(err, new(*dialect.UnauthorizedError)) {
		return err
	}
	if p != nil {
		c.Set(keyPrincipal, p) // for the audit log
	}
	http.SetCookie(c.Writer, s.sessions.Cookie(c.Request, ""))
	c.Status(http.StatusNoContent)
	return nil
}

// login sends the browser to the OpenID provider.
func (s *Server) login(c *gin.Context) error {
	if err := s.canLogIn(c); err != nil {
		return err
	}
	given, err := parameters(c, "return_to")
	if err != nil {
		return err
	}
	returnTo := "/session"
	if given.Has("return_to") {
		if returnTo = given.Get("return_to"); !auth.IsLocalPath(returnTo) {
			return refuse(kindBadParameter, "the query parameter %q is not a path of this server: expected one such as /session", "return_to")
		}
	}
	location, cookie, err := s.sessions.Login(c.Request, returnTo)
	if err != nil {
		return err
	}
	http.SetCookie(c.Writer, cookie)
	c.Header("Location", location)
	c.Status(http.StatusSeeOther)
	return nil
}

func (s *Server) canLogIn(c *gin.Context) error {
	if err := s.canSignIn(c); err != nil {
		return err
	}
	if !s.sessions.CanLogin() {
		return refuse(kindNotFound, "this server has no sign-in at an OpenID provider: set auth.sessions.client_id, and jwt in auth.modes")
	}
	return nil
}

// callback ends a sign-in at the OpenID provider. The answer is a page, not a redirect: with SameSite=Strict, a
// redirect that began at another site would come without the new cookie.
func (s *Server) callback(c *gin.Context) error {
	if err := s.canLogIn(c); err != nil {
		return err
	}
	query, err := parseQuery(c.Request.URL.RawQuery)
	if err != nil {
		return err
	}
	http.SetCookie(c.Writer, s.sessions.ForgetLogin(c.Request))
	in, err := s.sessions.Callback(c.Request, source(c.Request), query)
	if err != nil {
		return err
	}
	if err := s.enter(c, in); err != nil {
		return err
	}
	page := strings.ReplaceAll(signedInPage, "RETURN_TO", html.EscapeString(in.ReturnTo))
	return writeBytes(c, http.StatusOK, "text/html; charset=utf-8", []byte(page))
}

const signedInPage = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=RETURN_TO"><title>Signed in</title></head>
<body><p>You are signed in. <a href="RETURN_TO">Continue</a></p></body></html>
`
