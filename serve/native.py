"""`POST /v1/user/turns`: the endpoint's own dialect, with true roles."""

from __future__ import annotations

import time
import uuid

from fastapi import APIRouter

from serve.schemas import PromptFacts, SaidMessage, UserTurnChoice, UserTurnRequest, UserTurnResponse
from serve.service import Service, usage
from serve.strict import StrictRoute
from usersim.sampling import as_profile
from usersim.types import UserTurn


def router(service: Service) -> APIRouter:
    routes = APIRouter(route_class=StrictRoute, tags=["user"])

    @routes.post("/v1/user/turns", summary="The next user turn, or n alternatives for it")
    async def user_turns(request: UserTurnRequest) -> UserTurnResponse:
        model = service.check_model(request.model)
        turns = await service.turns(
            as_profile(request.goal, request.persona),
            [message.turn() for message in request.messages],
            request,
            max_tokens=request.max_tokens,
        )
        renderer = service.user.renderer
        return UserTurnResponse(
            id=f"ut_{uuid.uuid4().hex}",
            created=int(time.time()),
            model=model,
            choices=[_choice(index, turn) for index, turn in enumerate(turns)],
            usage=usage(turns),
            prompt=PromptFacts(template=renderer.settings.template, fingerprint=renderer.fingerprint),
        )

    return routes


def _choice(index: int, turn: UserTurn) -> UserTurnChoice:
    return UserTurnChoice(
        index=index,
        message=SaidMessage(content=turn.text),
        finish_reason="end_of_conversation" if turn.finish == "end" else turn.finish,
        end_of_conversation=turn.ends,
        end_of_conversation_prob=turn.end_probability,
        logprob=turn.logprob,
        tokens=turn.tokens,
        seed=turn.seed,
        rejected=turn.rejected,
    )
