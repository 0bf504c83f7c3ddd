package presence

import "context"

// Most tests look at one session at a time.

func (s *Store) Add(ctx context.Context, session Session) (Admission, error) {
	r := s.AddAll(ctx, []Session{session})[0]
	return r.Admission, r.Err
}

func (s *Store) Renew(ctx context.Context, session Session) (replaced bool, err error) {
	r := s.RenewAll(ctx, []Session{session})[0]
	return r.Replaced, r.Err
}

func (s *Store) Remove(ctx context.Context, session Session) (had bool, err error) {
	r := s.RemoveAll(ctx, []Session{session})[0]
	return r.Had, r.Err
}
