"""How does a FastAPI application with SQLAlchemy become multi-tenant? Its engine asks the router for connections."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import Identity, delete, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenantproxy import Router
from tenantproxy.auth.tokens import Tokens
from tenantproxy.middleware.asgi import TenantMiddleware
from tenantproxy.sqlalchemy import create_async_engine

router = Router.from_file(os.environ.get("TENANTPROXY_CONFIG", "tenantproxy.toml"))
app = FastAPI()
app.add_middleware(TenantMiddleware, router=router, tokens=Tokens(router.settings.auth, tenants=router.registry))
sessions = async_sessionmaker(create_async_engine(router), expire_on_commit=False)


class Base(DeclarativeBase):
    """Of the models."""


class Project(Base):
    """A row of the current tenant's: nothing here says whose."""

    __tablename__ = "projects"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str]


class NewProject(BaseModel):
    """What a client sends."""

    name: str


async def a_session() -> AsyncIterator[AsyncSession]:
    """One for each request: committed at its end, rolled back when it raises; no connection before its first use."""
    async with sessions.begin() as session:
        yield session


Db = Annotated[AsyncSession, Depends(a_session, scope="function")]


@app.get("/projects")
async def projects(db: Db) -> list[str]:
    """The tenant's projects."""
    return list(await db.scalars(select(Project.name).order_by(Project.name)))


@app.put("/projects", status_code=204)
async def rename(db: Db, old: str, new: NewProject) -> None:
    """Give each project that is called `old` another name."""
    for project in await db.scalars(select(Project).where(Project.name == old)):
        project.name = new.name


@app.delete("/projects", status_code=204)
async def remove(db: Db, name: str) -> None:
    """Delete the projects of that name."""
    await db.execute(delete(Project).where(Project.name == name))
