"""Care: what keeps sessions small and tidy: windows, pruning, cleanup and summaries.

Invariants: whatever is done, is done by facts that say why; automatic work goes by the settings
and leaves alone what is exempt (units.py); nothing runs in the background before start(), and
stop() returns when it is done.
"""

from typing import Any, Self, Unpack

from ..engine.requests import Options
from ..errors import InvalidEvent, brief
from ..log.base import Receipt
from ..messages import Json, Message
from ..state.header import SessionHeader
from ..store import EventStore
from .changes import Changes
from .cleanup import Cleanup
from .context import Window, build_context
from .covering import Rules
from .plans import Outcome, Plan
from .policies import Policy, Time
from .pruning import STRATEGIES, Duplicates, MessageTTL, TotalMessages
from .semantic import Embedding
from .session import Moment
from .settings import Settings
from .summaries import Summaries, Summarizer

Policies = list[Policy]


class Care(Changes):
    """The caring part of a SessionManager."""

    def __init__(
        self,
        store: EventStore,
        settings: Settings,
        summarizer: Summarizer | None = None,
        embed: Embedding | None = None,
    ) -> None:
        super().__init__(store, settings)
        self._embed = embed
        self.summaries = Summaries(store, summarizer, _rules(settings))
        self.cleaner = Cleanup(
            store,
            self.views,
            expired=settings.expired,
            inactive_after=settings.inactive_after,
            policies=self._standing_policies(),
            interval=settings.cleanup_interval,
            batch=settings.cleanup_batch,
        )

    # -- the context window --------------------------------------------------------------

    def build_context(
        self,
        session: str,
        max_tokens: int | None = None,
        last: int | None = None,
        *,
        include_summaries: bool = True,
        **moment: Unpack[Moment],
    ) -> Window:
        """Return what a model is to see of a session, now or at a past moment.

        `max_tokens` is the session's token_limit where it is not given, `last` the settings'
        context_last. Raises InvalidEvent where what must be in it is over the budget.
        """
        newest = self.settings.context_last if last is None else last
        return build_context(
            self.store, session, max_tokens, newest, include_summaries=include_summaries, **moment
        )

    # -- summaries -----------------------------------------------------------------------

    def summarize(
        self,
        session: str,
        summary: str | dict[str, Json] | Message | None = None,
        *,
        upto: int | str | None = None,
        **options: Unpack[Options],
    ) -> Receipt | None:
        """Show a summary in place of older messages, now and whether or not it is due.

        With `summary` it stands for all messages up to a version or message id; without, the
        summarizer writes it about the older part that the settings name, and None is returned
        where there is too little. Raises InvalidEvent and what the summarizer raises.
        """
        if summary is not None:
            return self.store.summarize(session, summary, upto=upto, **options)
        if upto is not None or options:
            raise InvalidEvent("upto and the options go with a summary of your own")
        return self.summaries.summarize_now(session)

    # -- pruning -------------------------------------------------------------------------

    def plan_pruning(
        self, /, policy: Policy | str | None = None, *, now: Time = None, **limits: Any
    ) -> Plan:
        """Return what a policy would take away and why; nothing is written.

        `policy` is one of pruning.py or a strategy by name (lru, lfu, ttl, size, semantic; the
        settings' own by default), `limits` its fields; what is not given is the settings'.
        """
        return self._policy(policy, limits).plan(self.store, self.views, now=now)

    def prune(
        self,
        /,
        policy: Policy | str | None = None,
        *,
        now: Time = None,
        actor: str | None = None,
        **limits: Any,
    ) -> Outcome:
        """Take away what plan_pruning() says now."""
        plan = self.plan_pruning(policy, now=now, **limits)
        return plan.apply(self.store, actor=actor)

    def cleanup(self, now: Time = None) -> Outcome:
        """Do one round of what cleanup does in the background.

        Expired and inactive sessions end as the settings say, then messages whose time is over
        and whatever is above the settings' limits go.
        """
        return self.cleaner.run_once(now)

    # -- in the background ---------------------------------------------------------------

    def start(self) -> Self:
        """Start what runs in the background, as the settings say; idempotent.

        That is cleanup, with a round at once, and summaries of sessions that are appended to.
        """
        if self.settings.summaries:
            self.summaries.start()
        if self.settings.cleanup:
            self.cleaner.start()
        return self

    def stop(self) -> None:
        """Stop what runs in the background and return when it is done; idempotent."""
        self.cleaner.stop()
        self.summaries.stop()

    def statistics(self, session: str | None = None) -> dict[str, Json]:
        """Return the numbers of one session, or of the store, its cache and its workers, as JSON.

        Those of the store also count sessions `by_type` and `by_interface`; see
        projections.Statistics for the others and their units.
        """
        found = super().statistics(session)
        if session is None:
            found["cleanup"] = self.cleaner.statistics.to_dict()
            found["summarizer"] = self.summaries.statistics.to_dict()
        return found

    # -- inside --------------------------------------------------------------------------

    def _appended(self, header: SessionHeader) -> None:
        super()._appended(header)
        if header.token_limit is not None:
            self.summaries.notice(header.session)

    def _policy(self, policy: Policy | str | None, limits: dict[str, Any]) -> Policy:
        """Return a policy by name, with the settings for what is not given."""
        if policy is not None and not isinstance(policy, str):
            if limits:
                raise InvalidEvent(f"{policy!r} has its limits; give none besides")
            if not callable(getattr(policy, "plan", None)):
                raise InvalidEvent(
                    f"a policy or a strategy's name is expected, not {brief(policy)}"
                )
            return policy
        name = policy or self.settings.strategy
        kind = STRATEGIES.get(name)
        if kind is None:
            raise InvalidEvent(f"strategies are {', '.join(STRATEGIES)}, not {brief(name)}")
        given = self._usual_limits(kind) | limits
        known = getattr(kind, "__struct_fields__", tuple(given))
        unknown = set(given) - set(known)
        if unknown:
            what = f"{name!r} has no limit {', '.join(sorted(unknown))}"
            raise InvalidEvent(f"{what}; there are {', '.join(known)}")
        return kind(**given)

    def _usual_limits(self, kind: type[Policy]) -> dict[str, Any]:
        chosen = self.settings
        if kind is Duplicates:
            return {"similarity": chosen.similarity, "embed": self._embed}
        return {
            "max_sessions": chosen.max_sessions,
            "max_messages": chosen.max_messages_total,
            "then": chosen.pruned,
        }

    def _standing_policies(self) -> Policies:
        """Return the policies that every cleanup applies."""
        chosen = self.settings
        found: Policies = [MessageTTL(default=chosen.message_ttl)]
        if chosen.max_messages_total is not None:
            preserve = {"dm": chosen.preserve_dm, "group": chosen.preserve_group}
            found.append(TotalMessages(limit=chosen.max_messages_total, preserve=preserve))
        if chosen.max_sessions is not None:
            found.append(self._policy(None, {"max_messages": None}))
        return found


def _rules(settings: Settings) -> Rules:
    return Rules(
        at=settings.summary_at,
        share=settings.summary_share,
        messages_min=settings.summary_messages_min,
        tokens_max=settings.summary_tokens,
    )
